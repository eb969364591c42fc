/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Build-time program: the table of what the engines can do, for vmd-vm(5). */
#include "config.h"

#include <stdio.h>

#include "daemon/engine-caps.h"

static const char *yes_or_no(bool yes)
{
	return yes ? "yes" : "no";
}

int main(void)
{
	printf("What each engine can do, on a host that has what it takes:\n"
	       ".Bl -column \"machine types and options\" \"boot.firmware\" \"kvm\" \"qemu\"\n"
	       ".It Sy What Ta Sy Field Ta Sy kvm Ta Sy qemu\n");
	for (int i = 0; i < _CAP_MAX; i++) {
		const struct engine_cap_info *c = &engine_caps[i];

		printf(".It %s Ta %s Ta %s Ta %s\n", c->what, c->field,
		       yes_or_no(c->has[ENGINE_KVM]), yes_or_no(c->has[ENGINE_QEMU]));
	}
	printf(".El\n");
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}
