/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Scope-exit attributes. A variable marked cleanup_x is released when it goes out of scope;
 * TAKE_PTR and TAKE_FD make each hand-over of ownership visible. A closed descriptor is -EBADF.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DEFINE_CLEANUP(type, fn)           \
	static inline void fn##_p(type *p) \
	{                                  \
		if (*p)                    \
			fn(*p);            \
	}                                  \
	struct cleanup_swallow_semicolon_

static inline void cleanup_free_p(void *p)
{
	free(*(void **)p);
}

/* Closes *fd if it is open; keeps errno. */
static inline void cleanup_close_p(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -EBADF;
	errno = saved;
}

static inline void cleanup_file_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void cleanup_dir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

#define cleanup_free    __attribute__((cleanup(cleanup_free_p)))
#define cleanup_close   __attribute__((cleanup(cleanup_close_p)))
#define cleanup_file    __attribute__((cleanup(cleanup_file_p)))
#define cleanup_dir     __attribute__((cleanup(cleanup_dir_p)))
#define cleanup_with(f) __attribute__((cleanup(f##_p)))

#define TAKE_PTR(p)                          \
	({                                   \
		__typeof__(p) take_p_ = (p); \
		(p) = NULL;                  \
		take_p_;                     \
	})
#define TAKE_FD(fd)                  \
	({                           \
		int take_fd_ = (fd); \
		(fd) = -EBADF;       \
		take_fd_;            \
	})
