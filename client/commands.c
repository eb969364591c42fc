/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/cmd.h"
#include "client/definition.h"
#include "client/handlers.h"
#include "client/help.h"

/* Options that several commands share; every row stands alone in help and completion. */
#define OPT_DRY_RUN                                                    \
	{                                                              \
		"dry-run", 0, NULL, "check everything, change nothing" \
	}
#define OPT_GENERATION                                                                \
	{                                                                             \
		"if-generation", 0, "N", "refuse unless the VM is at this generation" \
	}
#define OPT_NO_WAIT                                                    \
	{                                                              \
		"no-wait", 0, NULL, "return at once with the job's id" \
	}
#define OPT_FIELDS                                                            \
	{                                                                     \
		"fields", 0, "LIST", "only these members, such as name,state" \
	}
#define OPT_YES                                \
	{                                      \
		"yes", 'y', NULL, "do not ask" \
	}
#define OPT_FORCE_STOP                                    \
	{                                                 \
		"force", 'f', NULL, "end it hard at once" \
	}

const struct option_def many_options[] = {
	{ "label", 'l', "KEY=VALUE", "VMs that have this label (repeat: all of them)" },
	{ "all", 'a', NULL, "every VM" },
	{ 0 },
};

static const struct option_def change_options[] = { OPT_DRY_RUN, OPT_GENERATION, { 0 } };
static const struct option_def job_options[] = { OPT_DRY_RUN, OPT_GENERATION, OPT_NO_WAIT, { 0 } };
static const struct option_def fields_options[] = { OPT_FIELDS, { 0 } };
static const struct option_def none[] = { { 0 } };

static const struct option_def start_options[] = {
	{ "console", 'c', NULL, "attach to the console once it runs" },
	{ "escape", 'e', "KEY", "key that leaves the console (default ^])" },
	OPT_DRY_RUN,
	OPT_GENERATION,
	OPT_NO_WAIT,
	{ 0 },
};

static const struct option_def stop_options[] = {
	OPT_FORCE_STOP,
	{ "soft", 0, NULL, "only ask: leave it running when it does not stop in time" },
	OPT_DRY_RUN,
	OPT_GENERATION,
	OPT_NO_WAIT,
	{ 0 },
};

static const struct option_def restart_options[] = { OPT_FORCE_STOP, { 0 } };

static const struct option_def delete_options[] = {
	OPT_YES, { "force", 'f', NULL, "end it first if it runs" }, OPT_DRY_RUN, OPT_GENERATION,
	{ 0 },
};

static const struct option_def wait_options[] = {
	{ "for", 0, "WHAT",
	  "running, paused, stopped (default), suspended, kernel, init or login" },
	{ 0 },
};

static const struct option_def list_options[] = {
	{ "label", 'l', "KEY=VALUE", "VMs that have this label (repeat: all of them)" },
	{ "state", 0, "STATE", "VMs in this state" },
	{ "all", 'a', NULL, "every VM, whatever its state (as without options)" },
	OPT_FIELDS,
	{ 0 },
};

static const struct option_def logs_options[] = {
	{ "follow", 'f', NULL, "go on with new lines until the VM ends" },
	{ "tail", 'n', "LINES", "only the last lines" },
	{ "since", 0, "TIME", "only lines from then on: 10m (ago), 2026-01-31 12:00 or @seconds" },
	{ "timestamps", 't', NULL, "each line begins with its time (UTC)" },
	{ "raw", 0, NULL, "bytes as the guest wrote them, control characters too" },
	{ 0 },
};

static const struct option_def events_options[] = {
	{ "since", 0, "SEQ", "replay all events after this number first" },
	{ "type", 0, "PATTERN", "only these types, such as 'vm.*' (repeat: any of them)" },
	{ "count", 'n', "N", "end after N events" },
	{ "no-follow", 0, NULL, "end after the newest event there is" },
	{ 0 },
};

static const struct option_def console_options[] = {
	{ "escape", 'e', "KEY", "key that leaves the console (default ^]; none for no key)" },
	{ "read-only", 'r', NULL, "only watch" },
	{ "no-replay", 0, NULL, "begin with new output only" },
	{ 0 },
};

static const struct option_def screenshot_options[] = {
	{ "format", 0, "FORMAT", "png (default) or ppm" },
	{ 0 },
};

static const struct option_def send_key_options[] = {
	{ "hold", 0, "TIME", "how long the keys are held (default 100ms)" },
	{ 0 },
};

static const struct option_def apply_options[] = {
	{ "file", 'f', "FILE", "definition, or an array of them, as JSON ('-': stdin)" },
	{ "plan", 0, NULL, "only show what would change, and when it comes into force" },
	{ "dry-run", 0, NULL, "the same as --plan" },
	{ 0 },
};

static const struct option_def snapshot_create_options[] = {
	{ "description", 'm', "TEXT", "text kept with it" },
	OPT_DRY_RUN,
	OPT_NO_WAIT,
	{ 0 },
};

static const struct option_def snapshot_change_options[] = {
	OPT_YES,
	OPT_DRY_RUN,
	OPT_NO_WAIT,
	{ 0 },
};

static const struct option_def disk_create_options[] = {
	{ "format", 0, "FORMAT", "qcow2 (default) or raw" },
	OPT_DRY_RUN,
	OPT_NO_WAIT,
	{ 0 },
};

static const struct option_def disk_delete_options[] = { OPT_YES, OPT_DRY_RUN, { 0 } };

static const struct option_def job_list_options[] = {
	{ "vm", 0, "NAME", "only jobs of this VM" },
	{ "state", 0, "STATE", "running, done, failed or cancelled" },
	OPT_FIELDS,
	{ 0 },
};

static const struct option_def reload_options[] = {
	{ "dry-run", 0, NULL, "only check the file" },
	{ 0 },
};

static const struct command snapshot_commands[] = {
	{ "create", "new", "NAME [SNAPSHOT]", "take a snapshot: RAM, devices, disks of one instant",
	  "Without a name it is called after the time.", snapshot_create_options, NULL, 1, 2,
	  CMD_VMS, cmd_snapshot_create },
	{ "list", "ls", "NAME", "list the snapshots of a VM", NULL, fields_options, NULL, 1, 1,
	  CMD_VMS, cmd_snapshot_list },
	{ "get", "show info", "NAME SNAPSHOT", "all about a snapshot", NULL, fields_options, NULL,
	  2, 2, CMD_VMS, cmd_snapshot_get },
	{ "restore", "revert", "NAME SNAPSHOT", "bring a VM back to a snapshot",
	  "Disks go back and, where it was running, RAM and devices. What runs now is ended, so a "
	  "terminal is asked first.",
	  snapshot_change_options, NULL, 2, 2, CMD_VMS, cmd_snapshot_restore },
	{ "delete", "rm remove", "NAME SNAPSHOT...", "delete snapshots", NULL,
	  snapshot_change_options, NULL, 2, -1, CMD_VMS, cmd_snapshot_delete },
	{ 0 },
};

static const struct command disk_commands[] = {
	{ "create", "new", "DISK SIZE", "make a managed disk", NULL, disk_create_options, NULL, 2,
	  2, 0, cmd_disk_create },
	{ "list", "ls", "", "list managed disks", NULL, fields_options, NULL, 0, 0, 0,
	  cmd_disk_list },
	{ "delete", "rm remove", "DISK...", "delete managed disks", NULL, disk_delete_options, NULL,
	  1, -1, 0, cmd_disk_delete },
	{ 0 },
};

static const struct command job_commands[] = {
	{ "list", "ls", "", "list jobs, newest first", NULL, job_list_options, NULL, 0, 0, 0,
	  cmd_job_list },
	{ "get", "show info", "JOB", "all about a job", NULL, fields_options, NULL, 1, 1, 0,
	  cmd_job_get },
	{ "wait", NULL, "JOB", "wait until a job has ended", "The exit code tells how it ended.",
	  none, NULL, 1, 1, 0, cmd_job_wait },
	{ "cancel", NULL, "JOB...", "ask jobs to stop", NULL, none, NULL, 1, -1, 0,
	  cmd_job_cancel },
	{ 0 },
};

static const struct command daemon_commands[] = {
	{ "info", "status", "", "version, directories, limits and your role", NULL, fields_options,
	  NULL, 0, 0, 0, cmd_daemon_info },
	{ "ping", NULL, "", "is the daemon there, and how fast", NULL, none, NULL, 0, 0, 0,
	  cmd_daemon_ping },
	{ "reload", NULL, "", "read vmd.conf again", NULL, reload_options, NULL, 0, 0, 0,
	  cmd_daemon_reload },
	{ 0 },
};

static const struct command host_commands[] = {
	{ "info", "status", "", "processors, memory, KVM, engines and helpers", NULL,
	  fields_options, NULL, 0, 0, 0, cmd_host_info },
	{ "doctor", "check", "", "check what this host can run, and what to do about the rest",
	  "Exit code 1 when something is wrong that keeps VMs from running.", none, NULL, 0, 0, 0,
	  cmd_host_doctor },
	{ 0 },
};

static const char many_text[] =
	"Names may be several, or patterns in quotes ('web-*'), or chosen by --label or --all. Each VM "
	"has its own result; exit code 2 tells that some failed.";

#define ELSEWHERE(word)                                                               \
	{                                                                             \
		word, NULL, "", "", NULL, none, NULL, 0, -1, CMD_HIDDEN | CMD_ADVICE, \
			cmd_elsewhere                                                 \
	}
#define ABSENT(word)                                                                             \
	{                                                                                        \
		word, NULL, "", "", NULL, none, NULL, 0, -1, CMD_HIDDEN | CMD_ADVICE, cmd_absent \
	}

const struct command commands[] = {
	{ "Life", NULL, NULL, "Life", NULL, NULL, NULL, 0, 0, 0, NULL },
	{ "create", "new", "[NAME]", "define a VM",
	  "Options give the definition's fields, over those of -f FILE. Lists such as --disk go on "
	  "with each mention.",
	  create_options, NULL, 0, 1, 0, cmd_create },
	{ "run", "launch", "[NAME]", "create a VM, start it and attach to its console",
	  "Takes the options of create.", run_options, NULL, 0, 1, 0, cmd_run },
	{ "start", NULL, "NAME...", "start VMs; suspended ones go on where they were", many_text,
	  start_options, NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_start },
	{ "stop", "shutdown poweroff", "NAME...", "power VMs off, hard if they do not in time",
	  "Presses the power button and waits for --timeout (or the VM's stop_timeout_ms), then ends "
	  "the VM hard.",
	  stop_options, NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_stop },
	{ "restart", "reboot", "NAME...", "stop VMs and start them again",
	  "A VM that does not run is started.", restart_options, NULL, 0, -1, CMD_VMS | CMD_MANY,
	  cmd_restart },
	{ "kill", "terminate", "NAME...", "end VMs at once, as if the plug were pulled", many_text,
	  change_options, NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_kill },
	{ "reset", NULL, "NAME...", "reset VMs as by the reset button", many_text, change_options,
	  NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_reset },
	{ "pause", NULL, "NAME...", "stop the processors; memory stays in RAM", many_text,
	  change_options, NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_pause },
	{ "resume", "unpause", "NAME...", "let paused or suspended VMs go on", many_text,
	  job_options, NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_resume },
	{ "suspend", NULL, "NAME...", "write memory to disk and end the process",
	  "`start` or `resume` brings it back.", job_options, NULL, 0, -1, CMD_VMS | CMD_MANY,
	  cmd_suspend },
	{ "delete", "rm remove", "NAME...", "delete VMs; disks stay",
	  "Snapshots, logs and suspended memory go with a VM. Asks at a terminal.", delete_options,
	  NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_delete },
	{ "rename", "mv", "NAME NEW", "give a VM another name", NULL, change_options, NULL, 2, 2,
	  CMD_VMS, cmd_rename },
	{ "wait", NULL, "NAME...", "wait for a state or for readiness", many_text, wait_options,
	  NULL, 0, -1, CMD_VMS | CMD_MANY, cmd_wait },

	{ "See", NULL, NULL, "See", NULL, NULL, NULL, 0, 0, 0, NULL },
	{ "list", "ls ps", "[PATTERN]", "list VMs", NULL, list_options, NULL, 0, 1, CMD_VMS,
	  cmd_list },
	{ "status", "show", "[NAME...]", "how VMs are, for people", NULL, none, NULL, 0, -1,
	  CMD_VMS | CMD_MANY, cmd_status },
	{ "info", "inspect", "NAME...", "all about VMs, as JSON", NULL, fields_options, NULL, 0, -1,
	  CMD_VMS | CMD_MANY, cmd_info },
	{ "stats", "top", "NAME...", "counters of running VMs", NULL, none, NULL, 0, -1,
	  CMD_VMS | CMD_MANY, cmd_stats },
	{ "logs", "log", "NAME", "the console log", NULL, logs_options, NULL, 1, 1, CMD_VMS,
	  cmd_logs },
	{ "events", NULL, "[NAME]", "what happens, as it happens", NULL, events_options, NULL, 0, 1,
	  CMD_VMS, cmd_events },

	{ "Talk", NULL, NULL, "Talk", NULL, NULL, NULL, 0, 0, 0, NULL },
	{ "console", "attach", "NAME", "attach to the text console", NULL, console_options, NULL, 1,
	  1, CMD_VMS, cmd_console },
	{ "send-key", "key", "NAME KEYS...", "press keys, such as ctrl-alt-delete",
	  "Keys joined by '-' are pressed together; several arguments one after another.",
	  send_key_options, NULL, 2, -1, CMD_VMS, cmd_send_key },
	{ "screenshot", NULL, "NAME [FILE]", "a picture of the screen",
	  "Without FILE it is NAME.png; '-' is stdout.", screenshot_options, NULL, 1, 2, CMD_VMS,
	  cmd_screenshot },
	{ "qmp", NULL, "NAME COMMAND [JSON|KEY=VALUE...]", "send a QMP command to the engine", NULL,
	  change_options, NULL, 2, -1, CMD_VMS, cmd_qmp },

	{ "Configuration", NULL, NULL, "Configuration", NULL, NULL, NULL, 0, 0, 0, NULL },
	{ "set", NULL, "NAME KEY=VALUE...", "change fields of a definition",
	  "Keys are dotted paths (boot.cmdline, disks.0.readonly); values are JSON where the field "
	  "takes it, else text. null removes a field.",
	  change_options, NULL, 2, -1, CMD_VMS, cmd_set },
	{ "edit", NULL, "NAME", "change a definition in $VISUAL or $EDITOR",
	  "A text that is refused may be edited again, or is kept in a file that is named. What "
	  "others changed meanwhile stays; where they changed the same field, that is told.",
	  none, NULL, 1, 1, CMD_VMS, cmd_edit },
	{ "apply", NULL, "-f FILE", "create or change VMs as a file says",
	  "The file is the whole truth about a VM: fields it does not have go back to their default. "
	  "Identity (uuid, owner, MAC addresses) stays.",
	  apply_options, NULL, 0, 0, 0, cmd_apply },
	{ "validate", "check", "[NAME]", "check a definition and change nothing",
	  "Takes the options of create.", create_options, NULL, 0, 1, 0, cmd_validate },

	{ "State", NULL, NULL, "State", NULL, NULL, NULL, 0, 0, 0, NULL },
	{ "snapshot", "snap", "", "snapshots", NULL, NULL, snapshot_commands, 0, 0, 0, NULL },
	{ "disk", NULL, "", "managed disks", NULL, NULL, disk_commands, 0, 0, 0, NULL },

	{ "Daemon", NULL, NULL, "Daemon and host", NULL, NULL, NULL, 0, 0, 0, NULL },
	{ "job", NULL, "", "long work", NULL, NULL, job_commands, 0, 0, 0, NULL },
	{ "daemon", NULL, "", "vmd itself", NULL, NULL, daemon_commands, 0, 0, 0, NULL },
	{ "host", NULL, "", "this host", NULL, NULL, host_commands, 0, 0, 0, NULL },
	{ "call", NULL, "METHOD [JSON|KEY=VALUE...]", "call a method of the API", NULL,
	  fields_options, NULL, 1, -1, 0, cmd_call },
	{ "help", NULL, "[COMMAND|METHOD]", "help for a command or an API method", NULL, none, NULL,
	  0, 2, 0, cmd_help },
	{ "version", NULL, "", "versions of vmctl and of the daemon", NULL, none, NULL, 0, 0, 0,
	  cmd_version },
	{ "completion", NULL, "SHELL", "print the completion script for bash, zsh or fish", NULL,
	  none, NULL, 1, 1, 0, cmd_completion },

	{ "destroy", NULL, "[NAME]", "", NULL, none, NULL, 0, -1, CMD_HIDDEN | CMD_ADVICE,
	  cmd_destroy },
	{ "load", NULL, "[FILE]", "", NULL, none, NULL, 0, -1, CMD_HIDDEN | CMD_ADVICE, cmd_load },
	ELSEWHERE("define"),
	ELSEWHERE("undefine"),
	ELSEWHERE("save"),
	ELSEWHERE("managedsave"),
	ELSEWHERE("restore"),
	ELSEWHERE("reload"),
	ELSEWHERE("monitor"),
	ELSEWHERE("event"),
	ELSEWHERE("qemu-monitor-command"),
	ELSEWHERE("query"),
	ELSEWHERE("doctor"),
	ELSEWHERE("nodeinfo"),
	ELSEWHERE("dominfo"),
	ELSEWHERE("domstate"),
	ELSEWHERE("domstats"),
	ELSEWHERE("dumpxml"),
	ELSEWHERE("config"),
	ELSEWHERE("setmem"),
	ELSEWHERE("setvcpus"),
	ELSEWHERE("autostart"),
	ELSEWHERE("enable"),
	ELSEWHERE("disable"),
	ELSEWHERE("protect"),
	ELSEWHERE("unprotect"),
	ELSEWHERE("attach-disk"),
	ELSEWHERE("vol-create"),
	ELSEWHERE("login"),
	ELSEWHERE("shell"),
	ABSENT("send"),
	ABSENT("receive"),
	ABSENT("migrate"),
	ABSENT("clone"),
	ABSENT("exec"),
	ABSENT("copy"),
	ABSENT("file"),
	ABSENT("image"),
	ABSENT("network"),
	ABSENT("detach"),
	{ "__complete", NULL, "", "", NULL, none, NULL, 0, -1, CMD_HIDDEN, cmd_complete },
	{ 0 },
};
