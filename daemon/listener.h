/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The API sockets: vmd.sock and the read-only vmd-ro.sock beside it, made by vmd or passed by the
 * service manager (LISTEN_FDS; the name "vmd-ro.socket" or "vmd-ro" marks the read-only one). On
 * the read-only one everybody is at most a viewer.
 */
#include "common/error.h"
#include "common/macros.h"

struct vmd;
struct listener;

/*
 * Opens the sockets and listens; needs vmd->rpc; sets vmd->listener. vmd->config.socket is the main
 * socket's path (vmd.sock in the runtime directory when empty; filled in then). Refused with err: a
 * directory that others can write to or that is neither root's nor ours, a path that is taken by
 * something else or by a daemon that answers. Modes: owner only when no group of vmd.conf exists;
 * that group when it is one; else everybody may connect, and who has no role is told so. Blocks.
 */
int listener_new(struct vmd *vmd, struct vmd_error *err) MUST_CHECK;
/* Looks up vmd.conf's groups again and sets the modes of own sockets. Blocks. */
void listener_reload(struct vmd *vmd);
/* Stops listening; removes own sockets. */
void listener_free(struct listener *l);
