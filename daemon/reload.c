/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/reload.h"

#include "common/log.h"
#include "daemon/listener.h"
#include "daemon/notify.h"
#include "daemon/vmd.h"

int vmd_reload(struct vmd *vmd, bool dry_run, struct vmd_error *err)
{
	struct config fresh = vmd->config;
	int r;

	if (!dry_run)
		notify_reloading();
	r = config_read(&fresh, err);
	if (r == 0 && !dry_run) {
		vmd->config = fresh;
		log_set_level(fresh.log_level);
		listener_reload(vmd);
		log_notice("Configuration read again from '%s'", fresh.config_file);
	}
	if (!dry_run)
		notify_ready("%s", r == 0 ? "Configuration reloaded"
		                          : "Configuration refused, the old one stays");
	return r;
}
