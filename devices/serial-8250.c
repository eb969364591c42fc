/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/serial-8250.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"

enum {
	BYTES = 8,
	/* Registers; the first two are the divisor while LCR_DLAB is set. */
	DATA = 0,
	IER = 1,
	IIR_FCR = 2,
	LCR = 3,
	MCR = 4,
	LSR = 5,
	MSR = 6,
	SCR = 7,

	IER_RX = 1,
	IER_TX = 2,
	IER_LINE = 4,
	IER_MODEM = 8,
	IIR_NONE = 1,
	IIR_TX = 2,
	IIR_RX = 4,
	IIR_LINE = 6,
	IIR_TIMEOUT = 12,
	IIR_FIFO = 0xC0,
	FCR_ENABLE = 1,
	FCR_CLEAR_RX = 2,
	FCR_CLEAR_TX = 4,
	LCR_DLAB = 0x80,
	MCR_DTR = 1,
	MCR_RTS = 2,
	MCR_OUT1 = 4,
	MCR_OUT2 = 8,
	MCR_LOOP = 16,
	LSR_DATA = 1,
	LSR_OVERRUN = 2,
	LSR_TX_EMPTY = 0x20,
	LSR_TX_IDLE = 0x40,
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80,
	STATE_VERSION = 1
};

static unsigned fifo_room_locked(const struct serial *s)
{
	unsigned most = s->fcr & FCR_ENABLE ? SERIAL_FIFO_BYTES : 1;

	return s->fifo_len < most ? most - s->fifo_len : 0;
}

static uint8_t interrupt_id_locked(const struct serial *s)
{
	static const uint8_t trigger[] = { 1, 4, 8, 14 };

	if ((s->ier & IER_LINE) && s->overrun)
		return IIR_LINE;
	if ((s->ier & IER_RX) && s->fifo_len)
		return (s->fcr & FCR_ENABLE) && s->fifo_len < trigger[s->fcr >> 6] ? IIR_TIMEOUT
		                                                                   : IIR_RX;
	if ((s->ier & IER_TX) && s->tx_pending)
		return IIR_TX;
	return IIR_NONE;
}

static void update_line_locked(struct serial *s)
{
	bool high = interrupt_id_locked(s) != IIR_NONE;

	if (high == s->line)
		return;
	s->line = high;
	s->irqchip->ops->set_line(s->irqchip, SERIAL_GSI, high);
}

/* Loop. What the descriptor is watched for follows from the two buffers. */
static void update_watch(struct serial *s)
{
	uint32_t events;

	pthread_mutex_lock(&s->lock);
	events = (fifo_room_locked(s) ? EPOLLIN : 0) | (s->flushing ? EPOLLOUT : 0);
	pthread_mutex_unlock(&s->lock);
	if (!s->watching || events == s->watched)
		return;
	s->watched = events;
	(void)ioloop_change(s->loop, &s->watch, events);
}

/* Loop: the other end is gone, or the descriptor is no good. Output goes nowhere from now on. */
static void give_up(struct serial *s)
{
	if (s->watching)
		ioloop_unwatch(s->loop, &s->watch);
	s->watching = false;
	pthread_mutex_lock(&s->lock);
	cleanup_close_p(&s->fd);
	s->stats.dropped_bytes += s->ring_len;
	s->ring_len = 0;
	s->flushing = false;
	pthread_mutex_unlock(&s->lock);
}

/* Loop. Only this thread takes bytes out, so that they may be written without the lock. */
static int write_some(struct serial *s)
{
	unsigned at, len;
	ssize_t n;

	pthread_mutex_lock(&s->lock);
	at = s->ring_at;
	len = MIN_OF(s->ring_len, SERIAL_RING_BYTES - at);
	if (!len)
		s->flushing = false;
	pthread_mutex_unlock(&s->lock);
	if (!len)
		return 0;
	n = s->fd >= 0 ? write(s->fd, s->ring + at, len) : (ssize_t)len;
	if (n < 0)
		return -errno;
	pthread_mutex_lock(&s->lock);
	s->ring_at = (at + (unsigned)n) % SERIAL_RING_BYTES;
	s->ring_len -= (unsigned)n;
	if (s->fd >= 0)
		s->stats.sent_bytes += (uint64_t)n;
	/* The transmitter was busy and is not any more. */
	if (s->ring_len + (unsigned)n >= SERIAL_RING_BYTES)
		s->tx_pending = true;
	update_line_locked(s);
	pthread_mutex_unlock(&s->lock);
	return 1;
}

static void flush(struct serial *s)
{
	int r;

	do
		r = write_some(s);
	while (r > 0 || r == -EINTR);
	if (r < 0 && r != -EAGAIN)
		give_up(s);
	else
		update_watch(s);
}

static void on_wake(struct io_watch *w, uint32_t events UNUSED)
{
	struct serial *s = container_of(w, struct serial, wake);
	uint64_t count;

	/* Also "there is room for input again"; both are looked at. */
	if (read(w->fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		flush(s);
}

static void receive(struct serial *s)
{
	uint8_t buf[SERIAL_FIFO_BYTES];
	unsigned room;
	ssize_t n;

	pthread_mutex_lock(&s->lock);
	room = fifo_room_locked(s);
	pthread_mutex_unlock(&s->lock);
	n = room ? read(s->fd, buf, room) : -1;
	if (n == 0 || (n < 0 && room && errno != EAGAIN && errno != EINTR)) {
		give_up(s);
		return;
	}
	pthread_mutex_lock(&s->lock);
	for (ssize_t i = 0; i < n; i++) {
		/* The guest may have sent itself bytes (loopback) since the room was measured. */
		if (s->fifo_len == SERIAL_FIFO_BYTES)
			s->overrun = true;
		else
			s->fifo[(s->fifo_at + s->fifo_len++) % SERIAL_FIFO_BYTES] = buf[i];
	}
	if (n > 0)
		s->stats.received_bytes += (uint64_t)n;
	update_line_locked(s);
	pthread_mutex_unlock(&s->lock);
	update_watch(s);
}

static void on_ready(struct io_watch *w, uint32_t events)
{
	struct serial *s = container_of(w, struct serial, watch);

	if (events & EPOLLOUT)
		flush(s);
	if (s->watching && (events & EPOLLIN))
		receive(s);
	else if (s->watching && (events & (EPOLLHUP | EPOLLERR)))
		give_up(s);
}

static void wake(struct serial *s)
{
	uint64_t one = 1;

	/* Fails only when the count is at its end, and then it is readable anyway. */
	if (write(s->wake.fd, &one, sizeof(one)) < 0)
		return;
}

/* Whether the loop is to be woken. */
static bool transmit_locked(struct serial *s, uint8_t c)
{
	bool begin = !s->flushing;

	if (s->mcr & MCR_LOOP) {
		if (fifo_room_locked(s))
			s->fifo[(s->fifo_at + s->fifo_len++) % SERIAL_FIFO_BYTES] = c;
		else
			s->overrun = true;
		s->tx_pending = true;
		return false;
	}
	if (s->fd < 0 || s->ring_len == SERIAL_RING_BYTES) {
		s->stats.dropped_bytes++;
		s->tx_pending = true;
		return false;
	}
	s->ring[(s->ring_at + s->ring_len++) % SERIAL_RING_BYTES] = c;
	s->tx_pending = s->ring_len < SERIAL_RING_BYTES;
	s->flushing = true;
	return begin;
}

static uint8_t receive_byte_locked(struct serial *s, bool *ret_wake)
{
	uint8_t c = 0;

	if (!s->fifo_len)
		return 0;
	*ret_wake = !fifo_room_locked(s);
	c = s->fifo[s->fifo_at];
	s->fifo_at = (s->fifo_at + 1) % SERIAL_FIFO_BYTES;
	s->fifo_len--;
	return c;
}

static uint8_t read_iir_locked(struct serial *s)
{
	uint8_t id = interrupt_id_locked(s);

	if (id == IIR_TX)
		s->tx_pending = false;
	return (uint8_t)(id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

static uint8_t read_lsr_locked(struct serial *s)
{
	uint8_t lsr = (uint8_t)((s->fifo_len ? LSR_DATA : 0) | (s->overrun ? LSR_OVERRUN : 0));

	if (s->ring_len < SERIAL_RING_BYTES)
		lsr |= LSR_TX_EMPTY | LSR_TX_IDLE;
	s->overrun = false;
	return lsr;
}

static uint8_t read_msr_locked(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
	                 (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static uint8_t read_locked(struct serial *s, unsigned reg, bool *ret_wake)
{
	bool divisor = s->lcr & LCR_DLAB;

	switch (reg) {
	case DATA:
		return divisor ? s->dll : receive_byte_locked(s, ret_wake);
	case IER:
		return divisor ? s->dlm : s->ier;
	case IIR_FCR:
		return read_iir_locked(s);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return read_lsr_locked(s);
	case MSR:
		return read_msr_locked(s);
	default:
		return s->scr;
	}
}

static void write_ier_locked(struct serial *s, uint8_t value)
{
	/* Enabling the transmit interrupt while the transmitter is empty raises it at once. */
	if ((value & IER_TX) && !(s->ier & IER_TX))
		s->tx_pending = s->ring_len < SERIAL_RING_BYTES;
	s->ier = value & (IER_RX | IER_TX | IER_LINE | IER_MODEM);
}

static void write_fcr_locked(struct serial *s, uint8_t value, bool *ret_wake)
{
	if ((value & FCR_CLEAR_RX) || ((value ^ s->fcr) & FCR_ENABLE)) {
		s->fifo_len = 0;
		*ret_wake = true;
	}
	/* Clearing the transmitter would lose what is on the line already: the ring stays. */
	s->fcr = value & (FCR_ENABLE | 0xC0);
}

/* Whether the loop is to be woken. */
static bool write_locked(struct serial *s, unsigned reg, uint8_t value)
{
	bool divisor = s->lcr & LCR_DLAB, woken = false;

	switch (reg) {
	case DATA:
		if (!divisor)
			return transmit_locked(s, value);
		s->dll = value;
		break;
	case IER:
		if (divisor)
			s->dlm = value;
		else
			write_ier_locked(s, value);
		break;
	case IIR_FCR:
		write_fcr_locked(s, value, &woken);
		break;
	case LCR:
		s->lcr = value;
		break;
	case MCR:
		s->mcr = value & 0x1F;
		break;
	case SCR:
		s->scr = value;
		break;
	}
	return woken;
}

static uint64_t read_port(struct bus_region *r, uint64_t offset, unsigned size)
{
	struct serial *s = container_of(r, struct serial, region);
	uint64_t value = 0;
	bool woken = false;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read_locked(s, (unsigned)offset + i, &woken) << (i * 8);
	update_line_locked(s);
	pthread_mutex_unlock(&s->lock);
	if (woken)
		wake(s);
	return value;
}

static void write_port(struct bus_region *r, uint64_t offset, unsigned size, uint64_t value)
{
	struct serial *s = container_of(r, struct serial, region);
	bool woken = false;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < size; i++)
		woken |= write_locked(s, (unsigned)offset + i, (uint8_t)(value >> (i * 8)));
	update_line_locked(s);
	pthread_mutex_unlock(&s->lock);
	if (woken)
		wake(s);
}

static const struct bus_region_ops ops = { "serial-8250", read_port, write_port };

static int add_watches(struct serial *s)
{
	int r = ioloop_watch(s->loop, &s->wake, EPOLLIN);

	if (r < 0 || s->fd < 0)
		return r;
	s->watched = EPOLLIN;
	r = ioloop_watch(s->loop, &s->watch, EPOLLIN);
	/* A regular file cannot be watched, and need not be: it takes all output at once. */
	s->watching = r == 0;
	if (r == -EPERM)
		return 0;
	if (r < 0)
		ioloop_unwatch(s->loop, &s->wake);
	return r;
}

int serial_init(struct serial *s, struct bus *pio, struct irqchip *irqchip, struct ioloop *loop,
                int fd)
{
	int r;

	memset(s, 0, sizeof(*s));
	s->irqchip = irqchip;
	s->loop = loop;
	s->fd = fd;
	s->watch = (struct io_watch){ .fd = fd, .ready = on_ready };
	s->wake =
		(struct io_watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_wake };
	if (s->wake.fd < 0)
		return -errno;
	pthread_mutex_init(&s->lock, NULL);
	s->dll = 1; /* 115200 */
	s->tx_pending = true;
	r = fd >= 0 ? fd_set_nonblock(fd, 1) : 0;
	if (r >= 0)
		r = add_watches(s);
	if (r == 0) {
		s->region = (struct bus_region){ .ops = &ops, .base = SERIAL_PORT, .bytes = BYTES };
		r = bus_add(pio, &s->region);
	}
	if (r < 0) {
		close(s->wake.fd);
		pthread_mutex_destroy(&s->lock);
	}
	return r;
}

void serial_deinit(struct serial *s, struct bus *pio)
{
	bus_remove(pio, &s->region);
	cleanup_close_p(&s->fd);
	cleanup_close_p(&s->wake.fd);
	pthread_mutex_destroy(&s->lock);
}

static void drain(void *arg)
{
	flush(arg);
}

void serial_drain(struct serial *s)
{
	ioloop_call(s->loop, drain, s);
}

void serial_reset(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->dlm = 0;
	s->dll = 1;
	s->fifo_len = 0;
	s->overrun = false;
	s->tx_pending = true;
	update_line_locked(s);
	pthread_mutex_unlock(&s->lock);
	wake(s);
}

void serial_save(struct serial *s, struct state_out *o)
{
	const uint8_t registers[] = { s->ier, s->fcr, s->lcr, s->mcr, s->scr, s->dll, s->dlm };

	state_begin(o, "serial-8250", "", STATE_VERSION);
	state_put_bytes(o, registers, sizeof(registers));
	state_put_u8(o, s->tx_pending);
	state_put_u8(o, s->overrun);
	state_put_u8(o, s->line);
	state_put_u8(o, (uint8_t)s->fifo_len);
	for (unsigned i = 0; i < s->fifo_len; i++)
		state_put_u8(o, s->fifo[(s->fifo_at + i) % SERIAL_FIFO_BYTES]);
	state_put_u16(o, (uint16_t)s->ring_len);
	for (unsigned i = 0; i < s->ring_len; i++)
		state_put_u8(o, s->ring[(s->ring_at + i) % SERIAL_RING_BYTES]);
	state_end(o);
}

struct saved_serial {
	uint8_t registers[7], flags[3], fifo_len;
	uint8_t fifo[SERIAL_FIFO_BYTES], ring[SERIAL_RING_BYTES];
	uint16_t ring_len;
};

/* Only what serial_save() can have written. */
static int read_saved(struct state_section *section, struct saved_serial *s, struct vmd_error *err)
{
	state_get_bytes(section, s->registers, sizeof(s->registers));
	state_get_bytes(section, s->flags, sizeof(s->flags));
	s->fifo_len = state_get_u8(section);
	if (s->fifo_len > SERIAL_FIFO_BYTES)
		return error_set(err, ERROR_INVALID, "serial-8250: %u bytes in its FIFO",
		                 s->fifo_len);
	state_get_bytes(section, s->fifo, s->fifo_len);
	s->ring_len = state_get_u16(section);
	if (s->ring_len > SERIAL_RING_BYTES)
		return error_set(err, ERROR_INVALID, "serial-8250: %u bytes to send", s->ring_len);
	state_get_bytes(section, s->ring, s->ring_len);
	if ((s->registers[0] & ~0xF) || (s->registers[1] & ~(FCR_ENABLE | 0xC0)) ||
	    (s->registers[3] & ~0x1F) || s->flags[0] > 1 || s->flags[1] > 1 || s->flags[2] > 1)
		return error_set(err, ERROR_INVALID, "serial-8250: registers that cannot be");
	return state_section_done(section, err);
}

int serial_load(struct serial *s, struct state_in *in, struct vmd_error *err)
{
	struct state_section section;
	struct saved_serial saved;
	int r = state_take(in, "serial-8250", "", STATE_VERSION, &section, err);

	if (r == 0)
		r = read_saved(&section, &saved, err);
	if (r < 0)
		return r;
	s->ier = saved.registers[0];
	s->fcr = saved.registers[1];
	s->lcr = saved.registers[2];
	s->mcr = saved.registers[3];
	s->scr = saved.registers[4];
	s->dll = saved.registers[5];
	s->dlm = saved.registers[6];
	s->tx_pending = saved.flags[0];
	s->overrun = saved.flags[1];
	s->line = saved.flags[2]; /* as it is in the interrupt controller's state */
	s->fifo_at = s->ring_at = 0;
	s->fifo_len = saved.fifo_len;
	memcpy(s->fifo, saved.fifo, saved.fifo_len);
	s->ring_len = saved.ring_len;
	memcpy(s->ring, saved.ring, saved.ring_len);
	s->flushing = s->ring_len > 0;
	if (s->flushing)
		wake(s);
	return 0;
}

void serial_get_stats(struct serial *s, struct serial_stats *ret)
{
	pthread_mutex_lock(&s->lock);
	*ret = s->stats;
	pthread_mutex_unlock(&s->lock);
}
