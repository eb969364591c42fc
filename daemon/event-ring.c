/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/event-ring.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/list.h"
#include "common/log.h"
#include "common/strbuf.h"
#include "common/timeutil.h"

#define INDEX_STEP  (32u << 10) /* bytes between index entries */
#define READ_CHUNK  (64u << 10)
#define UNSAVED_MAX (256u << 10)
#define SUM_BYTES   18u /* ,"sum":"01234567"} */

struct index_entry {
	uint64_t seq, offset;
};

struct segment {
	int fd;
	uint64_t first, last; /* numbers; last 0 while it is empty */
	uint64_t size;
	struct index_entry *index;
	size_t n_index;
	bool dirty; /* written to since the last sync */
	bool torn;  /* ends in the middle of a line */
};

/* A line that could not be written. */
struct unsaved {
	struct list link;
	uint64_t seq;
	size_t len;
	char text[];
};

struct event_ring {
	int dir_fd; /* -EBADF: memory only */
	uint64_t segment_bytes;
	struct segment segments[EVENT_SEGMENTS]; /* oldest first */
	size_t n;
	struct list unsaved;
	size_t unsaved_bytes;
	uint64_t last;
	struct strbuf buffer;
	/* Guards segments and n against event_ring_sync, which only reads them and clears dirty. */
	pthread_mutex_t lock;
	bool dir_dirty;
};

static uint32_t line_sum(const char *text, size_t len)
{
	return (uint32_t)XXH3_64bits(text, len);
}

/* The number that a line begins with; 0 when it does not look like one of ours. */
static uint64_t line_seq(const char *line, size_t len)
{
	static const char head[] = "{\"seq\":";
	uint64_t seq = 0;
	size_t i = sizeof(head) - 1;

	if (len < i || memcmp(line, head, i) != 0)
		return 0;
	for (; i < len && line[i] >= '0' && line[i] <= '9'; i++)
		seq = seq * 10 + (uint64_t)(line[i] - '0');
	return seq;
}

/* Checks the line's sum; returns the length of the event without it, "}" not counted, or 0. */
static size_t check_line(const char *line, size_t len)
{
	char want[SUM_BYTES + 1];
	size_t body;

	if (len <= SUM_BYTES || !line_seq(line, len))
		return 0;
	body = len - SUM_BYTES;
	snprintf(want, sizeof(want), ",\"sum\":\"%08" PRIx32 "\"}", line_sum(line, body));
	return memcmp(line + body, want, SUM_BYTES) == 0 ? body : 0;
}

static void index_add(struct segment *s, uint64_t seq, uint64_t offset)
{
	struct index_entry *index;

	if (s->n_index && offset - s->index[s->n_index - 1].offset < INDEX_STEP)
		return;
	/* Without memory reading is slower, no more. */
	index = reallocarray(s->index, s->n_index + 1, sizeof(*index));
	if (!index)
		return;
	s->index = index;
	s->index[s->n_index++] = (struct index_entry){ seq, offset };
}

/* Where to look for seq: the offset of a line at or before it. */
static uint64_t index_find(const struct segment *s, uint64_t seq)
{
	size_t low = 0, high = s->n_index;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (s->index[mid].seq <= seq)
			low = mid + 1;
		else
			high = mid;
	}
	return low ? s->index[low - 1].offset : 0;
}

static void segment_name(char buf[32], uint64_t first)
{
	snprintf(buf, 32, "%020" PRIu64 ".jsonl", first);
}

static void segment_close(struct segment *s)
{
	cleanup_close_p(&s->fd);
	free(s->index);
}

/* lock held (or nobody else knows the ring). */
static void drop_oldest(struct event_ring *r)
{
	char name[32];

	segment_name(name, r->segments[0].first);
	if (unlinkat(r->dir_fd, name, 0) < 0 && errno != ENOENT)
		log_warning("Cannot remove 'events/%s': %s", name, strerror(errno));
	segment_close(&r->segments[0]);
	memmove(&r->segments[0], &r->segments[1], --r->n * sizeof(r->segments[0]));
}

/* --- reading ------------------------------------------------------------------------------ */

/* Fills the buffer with whole lines from offset on: as much as a chunk, more for one long line. */
static ssize_t read_lines(struct event_ring *r, const struct segment *s, uint64_t offset)
{
	size_t want = READ_CHUNK;

	for (;; want *= 4) {
		size_t len = (size_t)MIN_OF((uint64_t)want, s->size - offset);
		char *end;
		ssize_t n;

		r->buffer.len = 0;
		if (!strbuf_reserve(&r->buffer, len)) {
			strbuf_deinit(&r->buffer);
			return -ENOMEM;
		}
		n = pread(s->fd, r->buffer.data, len, (off_t)offset);
		if (n <= 0)
			return n < 0 ? -errno : 0;
		end = memrchr(r->buffer.data, '\n', (size_t)n);
		if (end)
			return end + 1 - r->buffer.data;
		if ((size_t)n < want)
			return 0;
	}
}

/* One line for the reader; false: stop. */
static bool give_line(struct event_cursor *c, const struct event_reader *reader, char *line,
                      size_t len)
{
	uint64_t seq = line_seq(line, len);
	size_t body = check_line(line, len);

	if (!body) {
		c->damaged = true;
		return true;
	}
	if (seq < c->next)
		return true;
	if (c->damaged && seq > c->next) {
		if (!reader->on_gap(reader->userdata, c->next, seq - 1))
			return false;
		c->next = seq;
	}
	c->damaged = false;
	line[body] = '}';
	line[body + 1] = '\0';
	if (!reader->on_line(reader->userdata, seq, line, body + 1))
		return false;
	c->next = seq + 1;
	return true;
}

/* Reads a segment from the cursor's offset; as event_ring_read. */
static int read_segment(struct event_ring *r, const struct segment *s, struct event_cursor *c,
                        const struct event_reader *reader, size_t *budget)
{
	while (c->offset < s->size) {
		ssize_t n = read_lines(r, s, c->offset);
		char *p = r->buffer.data, *end = p + n;

		if (n <= 0) {
			/* A torn end, or a disk that cannot be read. */
			c->damaged = true;
			c->offset = s->size;
			return 0;
		}
		*budget -= MIN_OF(*budget, (size_t)n);
		while (p < end) {
			char *newline = memchr(p, '\n', (size_t)(end - p));

			if (!give_line(c, reader, p, (size_t)(newline - p)))
				return -ECANCELED;
			c->offset += (uint64_t)(newline + 1 - p);
			p = newline + 1;
		}
		if (!*budget)
			return 1;
	}
	return 0;
}

static int read_unsaved(struct event_ring *r, struct event_cursor *c,
                        const struct event_reader *reader)
{
	struct unsaved *u;

	list_for_each(u, &r->unsaved, link) {
		if (u->seq < c->next)
			continue;
		r->buffer.len = 0;
		strbuf_append(&r->buffer, u->text, u->len);
		if (strbuf_failed(&r->buffer)) {
			strbuf_deinit(&r->buffer);
			return -ENOMEM;
		}
		if (c->damaged && u->seq > c->next) {
			if (!reader->on_gap(reader->userdata, c->next, u->seq - 1))
				return -ECANCELED;
			c->next = u->seq;
		}
		c->damaged = false;
		if (!reader->on_line(reader->userdata, u->seq, r->buffer.data, u->len))
			return -ECANCELED;
		c->next = u->seq + 1;
	}
	return 0;
}

int event_ring_read(struct event_ring *r, struct event_cursor *c, const struct event_reader *reader,
                    size_t budget)
{
	int ret = 0;

	if (c->next > r->last)
		return 0;
	for (size_t i = 0; i < r->n && ret == 0; i++) {
		struct segment *s = &r->segments[i];

		if (s->last < c->next)
			continue;
		if (c->segment != s->first) {
			c->segment = s->first;
			c->offset = index_find(s, c->next);
		}
		ret = read_segment(r, s, c, reader, &budget);
	}
	if (ret == 0)
		ret = read_unsaved(r, c, reader);
	if (ret == 0 && c->damaged && c->next <= r->last) {
		/* Nothing good comes after the damaged lines. */
		if (!reader->on_gap(reader->userdata, c->next, r->last))
			return -ECANCELED;
		c->next = r->last + 1;
		c->damaged = false;
	}
	if (r->buffer.cap > 4 * READ_CHUNK)
		strbuf_deinit(&r->buffer);
	return ret;
}

/* --- writing ------------------------------------------------------------------------------ */

/* Space ahead of use, so that a full disk does not silence the ring; not on a small disk. */
static void reserve_space(const struct event_ring *r, int fd)
{
	struct statvfs vfs;

	if (fstatvfs(fd, &vfs) == 0 &&
	    (uint64_t)vfs.f_bavail * vfs.f_frsize / 16 > r->segment_bytes)
		(void)!fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)r->segment_bytes);
}

static int begin_segment(struct event_ring *r, uint64_t first)
{
	struct segment s = { .fd = -EBADF, .first = first };
	char name[32];

	if (r->dir_fd < 0)
		return -EROFS;
	segment_name(name, first);
	s.fd = openat(r->dir_fd, name,
	              O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s.fd < 0)
		return -errno;
	reserve_space(r, s.fd);
	pthread_mutex_lock(&r->lock);
	if (r->n == EVENT_SEGMENTS)
		drop_oldest(r);
	r->segments[r->n++] = s;
	r->dir_dirty = true;
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* Writes a line to the newest segment, whole or not at all. */
static int write_line(struct event_ring *r, uint64_t seq, const char *text, size_t len)
{
	struct segment *s = r->n ? &r->segments[r->n - 1] : NULL;
	size_t total = len - 1 + SUM_BYTES + 1;
	char sum[SUM_BYTES + 2];
	struct iovec iov[2] = { { (void *)(uintptr_t)text, len - 1 }, { sum, SUM_BYTES + 1 } };
	ssize_t n;

	if (!s || s->torn || (s->size && s->size + total > r->segment_bytes)) {
		int e = begin_segment(r, seq);

		if (e < 0)
			return e;
		s = &r->segments[r->n - 1];
	}
	snprintf(sum, sizeof(sum), ",\"sum\":\"%08" PRIx32 "\"}\n", line_sum(text, len - 1));
	n = writev(s->fd, iov, 2);
	if (n != (ssize_t)total) {
		int e = n < 0 ? -errno : -ENOSPC;

		s->torn = ftruncate(s->fd, (off_t)s->size) < 0;
		return e;
	}
	index_add(s, seq, s->size);
	pthread_mutex_lock(&r->lock);
	s->size += total;
	s->last = seq;
	s->dirty = true;
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* Keeps a line in memory: at the end, or in front of all. */
static void keep_unsaved(struct event_ring *r, bool front, uint64_t seq, const char *text,
                         size_t len)
{
	struct unsaved *u = malloc(sizeof(*u) + len + 1);

	if (!u) {
		log_error("Event %" PRIu64 " is lost: out of memory", seq);
		return;
	}
	u->seq = seq;
	u->len = len;
	memcpy(u->text, text, len);
	u->text[len] = '\0';
	list_add_tail(front ? r->unsaved.next : &r->unsaved, &u->link);
	r->unsaved_bytes += len;
}

static void forget_first_unsaved(struct event_ring *r)
{
	struct unsaved *u = list_entry(r->unsaved.next, struct unsaved, link);

	list_del(&u->link);
	r->unsaved_bytes -= u->len;
	free(u);
}

size_t event_gap_text(char buf[EVENT_GAP_MAX], uint64_t from, uint64_t to)
{
	return (size_t)snprintf(buf, EVENT_GAP_MAX,
	                        "{\"seq\":%" PRIu64 ",\"time_us\":%" PRIu64
	                        ",\"type\":\"gap\",\"actor\":\"vmd\",\"data\":{\"from\":%" PRIu64
	                        ",\"to\":%" PRIu64 "}}",
	                        to, now_wall_us(), from, to);
}

/* The first lines in memory become one that says what is gone. */
static void merge_into_gap(struct event_ring *r)
{
	const struct unsaved *u = list_entry(r->unsaved.next, struct unsaved, link);
	uint64_t from = u->seq, to = u->seq;
	char text[EVENT_GAP_MAX];

	(void)sscanf(u->text,
	             "{\"seq\":%*u,\"time_us\":%*u,\"type\":\"gap\",\"actor\":\"vmd\",\"data\":"
	             "{\"from\":%" SCNu64,
	             &from);
	forget_first_unsaved(r);
	if (!list_is_empty(&r->unsaved)) {
		to = list_entry(r->unsaved.next, struct unsaved, link)->seq;
		forget_first_unsaved(r);
	}
	keep_unsaved(r, true, to, text, event_gap_text(text, from, to));
}

void event_ring_append(struct event_ring *r, uint64_t seq, const char *text, size_t len)
{
	int e = 0;

	while (!list_is_empty(&r->unsaved) && e == 0) {
		struct unsaved *u = list_entry(r->unsaved.next, struct unsaved, link);

		e = write_line(r, u->seq, u->text, u->len);
		if (e == 0)
			forget_first_unsaved(r);
	}
	if (e == 0)
		e = write_line(r, seq, text, len);
	if (e < 0 && list_is_empty(&r->unsaved) && r->dir_fd >= 0)
		log_error("Cannot write events: %s; they are kept in memory", strerror(-e));
	if (e < 0)
		keep_unsaved(r, false, seq, text, len);
	while (r->unsaved_bytes > UNSAVED_MAX)
		merge_into_gap(r);
	r->last = seq;
}

/* --- opening ------------------------------------------------------------------------------ */

/* Finds the numbers and the index of a segment, and where its last whole line ends. */
static int scan_segment(struct event_ring *r, struct segment *s, uint64_t *ret_end)
{
	uint64_t offset = 0;

	*ret_end = 0;
	while (offset < s->size) {
		ssize_t n = read_lines(r, s, offset);
		char *p = r->buffer.data, *end = p + n;

		if (n <= 0)
			return (int)n;
		while (p < end) {
			char *newline = memchr(p, '\n', (size_t)(end - p));
			size_t len = (size_t)(newline - p);
			uint64_t seq = line_seq(p, len);

			if (check_line(p, len) && seq > s->last && seq >= s->first) {
				index_add(s, seq, offset);
				s->last = seq;
			} else {
				s->last++; /* rotten: its number was given, too */
			}
			*ret_end = offset + len + 1;
			offset += len + 1;
			p = newline + 1;
		}
	}
	return 0;
}

static int open_segment(struct event_ring *r, const char *name)
{
	struct segment s = { .fd = -EBADF };
	uint64_t end;
	struct stat st;
	int e;

	s.first = strtoull(name, NULL, 10);
	s.last = s.first - 1;
	s.fd = openat(r->dir_fd, name, O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
	if (s.fd < 0 && errno == EROFS)
		s.fd = openat(r->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (s.fd < 0)
		return -errno;
	if (fstat(s.fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		segment_close(&s);
		return -EINVAL;
	}
	s.size = (uint64_t)st.st_size;
	e = scan_segment(r, &s, &end);
	/* What comes after the last line is a torn one, or zeros that a power cut left. */
	if (e == 0 && end < s.size && ftruncate(s.fd, (off_t)end) == 0)
		s.size = end;
	if (e < 0 || !s.size || s.last <= r->last) {
		segment_close(&s);
		(void)unlinkat(r->dir_fd, name, 0);
		return e;
	}
	if (r->n == EVENT_SEGMENTS)
		drop_oldest(r);
	r->segments[r->n++] = s;
	r->last = s.last;
	return 0;
}

static int is_segment(const struct dirent *e)
{
	return strlen(e->d_name) == 26 && strspn(e->d_name, "0123456789") == 20 &&
	       strcmp(e->d_name + 20, ".jsonl") == 0;
}

static void open_segments(struct event_ring *r)
{
	struct dirent **names;
	int n = scandirat(r->dir_fd, ".", &names, is_segment, alphasort);

	for (int i = 0; i < n; i++) {
		int e = open_segment(r, names[i]->d_name);

		if (e < 0)
			log_error("Cannot read 'events/%s': %s", names[i]->d_name, strerror(-e));
		free(names[i]);
	}
	if (n >= 0)
		free(names);
}

int event_ring_open(int state_fd, uint64_t bytes, struct event_ring **ret, struct vmd_error *err)
{
	struct event_ring *r = calloc(1, sizeof(*r));

	if (!r)
		return error_set_errno(err, ENOMEM, "cannot open the event ring");
	list_init(&r->unsaved);
	pthread_mutex_init(&r->lock, NULL);
	r->segment_bytes = MAX_OF(bytes / EVENT_SEGMENTS, (uint64_t)4096);
	if (mkdirat(state_fd, "events", 0700) < 0 && errno != EEXIST)
		log_error("Cannot make the events directory: %s", strerror(errno));
	r->dir_fd = openat(state_fd, "events", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (r->dir_fd >= 0)
		open_segments(r);
	else
		log_error("Events are kept in memory only: %s", strerror(errno));
	*ret = r;
	return 0;
}

void event_ring_free(struct event_ring *r)
{
	if (!r)
		return;
	while (!list_is_empty(&r->unsaved))
		forget_first_unsaved(r);
	while (r->n)
		segment_close(&r->segments[--r->n]);
	cleanup_close_p(&r->dir_fd);
	strbuf_deinit(&r->buffer);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

uint64_t event_ring_first(const struct event_ring *r)
{
	if (r->n)
		return r->segments[0].first;
	return list_is_empty(&r->unsaved) ? 0
	                                  : list_entry(r->unsaved.next, struct unsaved, link)->seq;
}

uint64_t event_ring_last(const struct event_ring *r)
{
	return r->last;
}

/* Duplicates of the descriptors that need a sync; they are clean after. lock held. */
static size_t take_dirty(struct event_ring *r, int fds[EVENT_SEGMENTS + 1])
{
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++) {
		if (!r->segments[i].dirty)
			continue;
		fds[n] = fcntl(r->segments[i].fd, F_DUPFD_CLOEXEC, 3);
		if (fds[n] >= 0) {
			r->segments[i].dirty = false;
			n++;
		}
	}
	if (r->dir_dirty) {
		fds[n] = fcntl(r->dir_fd, F_DUPFD_CLOEXEC, 3);
		if (fds[n] >= 0) {
			r->dir_dirty = false;
			n++;
		}
	}
	return n;
}

int event_ring_sync(struct event_ring *r, uint64_t seq)
{
	int fds[EVENT_SEGMENTS + 1];
	uint64_t saved;
	size_t n = 0;
	int e = 0;

	pthread_mutex_lock(&r->lock);
	saved = r->n ? r->segments[r->n - 1].last : 0;
	if (saved >= seq)
		n = take_dirty(r, fds);
	pthread_mutex_unlock(&r->lock);
	if (saved < seq)
		return -EAGAIN;
	for (size_t i = 0; i < n; i++) {
		if (fsync(fds[i]) < 0)
			e = -errno;
		close(fds[i]);
	}
	return e;
}
