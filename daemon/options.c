/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"

static const char usage_text[] =
	"Usage: vmd [OPTION]...\n"
	"Supervise virtual machines and serve JSON-RPC 2.0 on a Unix socket.\n"
	"\n"
	"  --session            run for this user, without root\n"
	"  --state-dir=DIR      durable state (default /var/lib/vmd)\n"
	"  --runtime-dir=DIR    sockets and records of running guests (default /run/vmd)\n"
	"  --socket=PATH        API socket (default RUNTIME-DIR/vmd.sock)\n"
	"  --config=FILE        configuration (default /etc/vmd/vmd.conf)\n"
	"  --check-config       read the configuration, say whether it is good, and end\n"
	"  -h, --help           show this help\n"
	"  -V, --version        show the version\n";

enum {
	OPT_SESSION = 256,
	OPT_STATE_DIR,
	OPT_RUNTIME_DIR,
	OPT_SOCKET,
	OPT_CONFIG,
	OPT_CHECK_CONFIG,
};

static const struct option long_options[] = {
	{ "session", no_argument, NULL, OPT_SESSION },
	{ "state-dir", required_argument, NULL, OPT_STATE_DIR },
	{ "runtime-dir", required_argument, NULL, OPT_RUNTIME_DIR },
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "check-config", no_argument, NULL, OPT_CHECK_CONFIG },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/* Keeps an absolute path; a relative one would change its meaning with the working directory. */
static int keep_path(char *field, size_t len, const char *value, const char *option)
{
	char cwd[256];
	int n;

	if (value[0] == '/')
		n = snprintf(field, len, "%s", value);
	else if (getcwd(cwd, sizeof(cwd)))
		n = snprintf(field, len, "%s/%s", cwd, value);
	else
		n = -1;
	if (n > 0 && (size_t)n < len && value[0])
		return 0;
	fprintf(stderr, "vmd: --%s: '%s' is empty or too long\n", option, value);
	return -EINVAL;
}

/* $VARIABLE/vmd, or fallback relative to $HOME. */
static void xdg_path(char *field, size_t len, const char *variable, const char *home_relative)
{
	const char *base = getenv(variable), *home = getenv("HOME");

	if (field[0])
		return;
	if (base && base[0] == '/')
		snprintf(field, len, "%.200s/vmd", base);
	else
		snprintf(field, len, "%.200s/%s/vmd", home ? home : "/nonexistent", home_relative);
}

static void session_dirs(struct config *c)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR"), *tmp = getenv("TMPDIR");

	xdg_path(c->state_dir, sizeof(c->state_dir), "XDG_STATE_HOME", ".local/state");
	if (!c->config_file[0]) {
		xdg_path(c->config_file, sizeof(c->config_file) - 10, "XDG_CONFIG_HOME", ".config");
		strcat(c->config_file, "/vmd.conf");
	}
	if (c->runtime_dir[0])
		return;
	if (runtime && runtime[0] == '/')
		snprintf(c->runtime_dir, sizeof(c->runtime_dir), "%.200s/vmd", runtime);
	else
		snprintf(c->runtime_dir, sizeof(c->runtime_dir), "%.200s/vmd-%u",
		         tmp && tmp[0] == '/' ? tmp : "/tmp", getuid());
}

static void system_dirs(struct config *c)
{
	if (!c->state_dir[0])
		snprintf(c->state_dir, sizeof(c->state_dir), "%s", "/var/lib/vmd");
	if (!c->runtime_dir[0])
		snprintf(c->runtime_dir, sizeof(c->runtime_dir), "%s", "/run/vmd");
	if (!c->config_file[0])
		snprintf(c->config_file, sizeof(c->config_file), "%s/vmd.conf", VMD_SYSCONFDIR);
}

static int check_config(struct config *c)
{
	struct vmd_error err = VMD_ERROR_INIT;

	if (config_read(c, &err) < 0) {
		fprintf(stderr, "vmd: %s\n", err.message);
		return -EINVAL;
	}
	printf("%s: good\n", c->config_file);
	return 1;
}

static int parse_one(int option, struct config *c, bool *ret_check)
{
	switch (option) {
	case OPT_SESSION:
		c->session = true;
		return 0;
	case OPT_STATE_DIR:
		return keep_path(c->state_dir, sizeof(c->state_dir), optarg, "state-dir");
	case OPT_RUNTIME_DIR:
		return keep_path(c->runtime_dir, sizeof(c->runtime_dir), optarg, "runtime-dir");
	case OPT_SOCKET:
		return keep_path(c->socket, sizeof(c->socket), optarg, "socket");
	case OPT_CONFIG:
		return keep_path(c->config_file, sizeof(c->config_file), optarg, "config");
	case OPT_CHECK_CONFIG:
		*ret_check = true;
		return 0;
	case 'h':
		fputs(usage_text, stdout);
		return 1;
	case 'V':
		puts("vmd " PACKAGE_VERSION);
		return 1;
	default:
		fputs("Try 'vmd --help'.\n", stderr);
		return -EINVAL;
	}
}

int options_parse(int argc, char **argv, struct config *config)
{
	bool check = false;
	int option, r;

	while ((option = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
		r = parse_one(option, config, &check);
		if (r != 0)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "vmd: '%s' is no option\nTry 'vmd --help'.\n", argv[optind]);
		return -EINVAL;
	}
	if (config->session)
		session_dirs(config);
	else
		system_dirs(config);
	if (!config->socket[0] && snprintf(config->socket, sizeof(config->socket),
	                                   "%.240s/vmd.sock", config->runtime_dir) >= 108) {
		fprintf(stderr, "vmd: '%s' is too long for a socket's path\n", config->socket);
		return -EINVAL;
	}
	return check ? check_config(config) : 0;
}

static int check_dir(const char *path, struct vmd_error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return error_set_errno(err, errno, "cannot look at '%s'", path);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ERROR_INVALID, "'%s' is not a directory", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return error_set(err, ERROR_DENIED, "'%s' belongs to uid %u, not to us", path,
		                 st.st_uid);
	if (st.st_mode & 0022) {
		(void)error_set(err, ERROR_DENIED, "'%s' is writable by others (mode %o)", path,
		                st.st_mode & 07777);
		error_hint(err, "chmod go-w it, or choose another directory");
		return -EACCES;
	}
	return 0;
}

static int make_dir(const char *path, mode_t mode, struct vmd_error *err)
{
	int r = fs_mkdir_p(path, mode);

	if (r < 0 && (r != -EROFS || access(path, F_OK) < 0))
		return error_set_errno(err, -r, "cannot make '%s'", path);
	return check_dir(path, err);
}

int options_make_state_dir(const struct config *config, struct vmd_error *err)
{
	return make_dir(config->state_dir, 0700, err);
}

int options_make_runtime_dir(const struct config *config, struct vmd_error *err)
{
	return make_dir(config->runtime_dir, config->session ? 0700 : 0755, err);
}
