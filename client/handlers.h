/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The handlers of the command table, by file. Each returns an exit code. */

struct ctx;

/* cmd-define.c */
int cmd_create(struct ctx *ctx);
int cmd_run(struct ctx *ctx);
int cmd_validate(struct ctx *ctx);
int cmd_rename(struct ctx *ctx);
int cmd_delete(struct ctx *ctx);
/* cmd-change.c */
int cmd_set(struct ctx *ctx);
int cmd_edit(struct ctx *ctx);
int cmd_apply(struct ctx *ctx);
/* cmd-power.c */
int cmd_start(struct ctx *ctx);
int cmd_stop(struct ctx *ctx);
int cmd_restart(struct ctx *ctx);
int cmd_kill(struct ctx *ctx);
int cmd_reset(struct ctx *ctx);
int cmd_pause(struct ctx *ctx);
int cmd_resume(struct ctx *ctx);
int cmd_suspend(struct ctx *ctx);
int cmd_wait(struct ctx *ctx);
/* cmd-list.c */
int cmd_list(struct ctx *ctx);
int cmd_status(struct ctx *ctx);
int cmd_info(struct ctx *ctx);
int cmd_stats(struct ctx *ctx);
/* cmd-logs.c */
int cmd_logs(struct ctx *ctx);
/* cmd-events.c */
int cmd_events(struct ctx *ctx);
/* cmd-console.c */
int cmd_console(struct ctx *ctx);
/* Attaches to the console of a VM as cmd_console does; used by run and start -c. */
int console_attach(struct ctx *ctx, const char *vm);
/* Can a console be attached to with these options? 0, or an exit code; for before a start. */
int console_check_options(struct ctx *ctx);
/* cmd-screen.c */
int cmd_screenshot(struct ctx *ctx);
int cmd_send_key(struct ctx *ctx);
/* cmd-snapshot.c */
int cmd_snapshot_create(struct ctx *ctx);
int cmd_snapshot_list(struct ctx *ctx);
int cmd_snapshot_get(struct ctx *ctx);
int cmd_snapshot_restore(struct ctx *ctx);
int cmd_snapshot_delete(struct ctx *ctx);
/* cmd-disk.c */
int cmd_disk_create(struct ctx *ctx);
int cmd_disk_list(struct ctx *ctx);
int cmd_disk_delete(struct ctx *ctx);
/* cmd-job.c */
int cmd_job_list(struct ctx *ctx);
int cmd_job_get(struct ctx *ctx);
int cmd_job_wait(struct ctx *ctx);
int cmd_job_cancel(struct ctx *ctx);
/* cmd-call.c */
int cmd_call(struct ctx *ctx);
int cmd_qmp(struct ctx *ctx);
/* cmd-daemon.c */
int cmd_daemon_info(struct ctx *ctx);
int cmd_daemon_ping(struct ctx *ctx);
int cmd_daemon_reload(struct ctx *ctx);
/* cmd-host.c */
int cmd_host_info(struct ctx *ctx);
int cmd_host_doctor(struct ctx *ctx);
/* advice.c: words of other tools that mean several things here */
int cmd_destroy(struct ctx *ctx);
int cmd_load(struct ctx *ctx);
int cmd_elsewhere(struct ctx *ctx);
int cmd_absent(struct ctx *ctx);
