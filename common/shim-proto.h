/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * Between vmd and vmd-shim: one JSON object per message on a SOCK_SEQPACKET Unix socket
 * <runtime>/guests/<uuid>/shim.sock (0600), descriptors by SCM_RIGHTS. An old shim must survive a
 * new vmd: messages never change meaning, new fields are optional, a new meaning is a new name.
 *
 * Start: vmd execs "vmd-shim NAME" (NAME is for ps(1)) with descriptor 3 = a memfd holding the
 * launch document
 *   {"version":1, "uuid", "name", "runtime_dir", "state_dir", "log_max_bytes", "log_files",
 *    "ring_bytes", "procs":[{"name","argv":[...],"fds":[[source,target],...],"vital":bool,
 *    "jail":bool,"grace_ms":n}, ... last is the engine], "qmp_fd":n, "console_fd":n,
 *    "lock_fd":n, "ready_fd":n}
 * where all source numbers are descriptors of the shim process, from 4 up, and runtime_dir and
 * state_dir are the guest's own directories. qmp_fd, console_fd and lock_fd may be absent. The
 * engine inherits lock_fd under a number above all its targets. When a helper that is "vital" ends,
 * the engine is killed. One with "jail" has no capabilities but CAP_DAC_OVERRIDE, no new
 * privileges, no core dumps, and by Landlock no files but its own descriptors and, to read, those
 * of the system. When the engine has ended, helpers get SIGTERM, and SIGKILL after the longest
 * grace_ms (500). Unknown members are ignored, wrong ones are refused.
 * The shim binds shim.sock, starts the processes in order (helpers first), writes shim.json beside
 * it (identity record: shim and engine pid, start time, boot id, protocol version), then writes one
 * JSON line to ready_fd and closes it:
 *   {"ok":true,"pid":engine pid,"start_time":n} or
 *   {"ok":false,"step":"socket"|"identity"|"spawn <process>","error","errno"} and exits with 1.
 * A launch document that makes no sense: a sentence on stderr and exit status 65.
 *
 * Requests (vmd -> shim, at most SHIM_REQUEST_MAX bytes), each answered by one message with the
 * same "id" (an integer):
 *   {"id","op":"hello"} -> {"id","version":1,"uuid","state":"running"|"exited","pid","start_time",
 *       "boot_id","exit":{...}|null,"ready":{"kernel":us,"init":us,"login":us},"ready_time":{...},
 *       "console_bytes":n,
 *       "helpers":[ended ones, as in helper-exit]}
 *       with fds [qmp] when running or when unread QMP data remains. "ready" holds the levels
 *       reached, in microseconds since the engine's start, "ready_time" the same in wall clock
 *       time. The sender gets notifications from now on.
 *   {"id","op":"signal","signal":"KILL"|"TERM"|"STOP"|"CONT"} -> {"id","ok":true}
 *   {"id","op":"console","readonly":bool,"replay":bool,"since_us":n} -> {"id","ok":true} with fds
 *       [stream]: the console's raw bytes; what the ring holds first with replay (not before
 *       since_us). A reader that is too slow gets "[vmd: N bytes lost]" where bytes are missing.
 *   {"id","op":"logs","tail":lines|-1,"since_us":n,"timestamps":bool,"follow":bool} -> {"id",
 *       "ok":true} with fds [stream]
 *   {"id","op":"release"} -> {"id","ok":true}; allowed once exited: removes socket and records,
 *       exits.
 * Errors: {"id","error":"text","errno":n}.
 *
 * Notifications (shim -> vmd): {"event":"exit","exit":{"process":"engine","exited":bool,"code":n,
 *   "signal":n,"core":bool,"time_us":wall,"cause":"why the shim killed it","stderr":"last lines"}},
 *   {"event":"ready","level":"kernel"|"init"|"login","time_us":wall,"since_start_us":n},
 *   {"event":"helper-exit","process","exited","code","signal","core","time_us","stderr"}.
 * The exit record is also written to exit.json beside the socket (atomic, fsync).
 */
#define SHIM_PROTO_VERSION 1
#define SHIM_MESSAGE_MAX   65536
#define SHIM_REQUEST_MAX   4096
#define SHIM_LAUNCH_FD     3
