/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Where vmd's socket is, and starting a session daemon (vmd --session) when there is none. */
#include <stdbool.h>

#include "common/error.h"

/*
 * The socket to talk to, for the caller to free: explicit (may be NULL), else $VMD_SOCKET, else
 * root's /run/vmd/vmd.sock, else the session's. *ret_session tells the last case: only then may
 * session_start() be used.
 */
int session_socket(const char *explicit_path, char **ret_path, bool *ret_session,
                   struct vmd_error *err) MUST_CHECK;

/*
 * Starts vmd --session and waits until it says that it is ready (sd_notify protocol), or until
 * another vmctl's daemon is. Blocks for 30 s at most. 0, or -ENOTCONN with err.
 */
int session_start(const char *socket_path, struct vmd_error *err) MUST_CHECK;
