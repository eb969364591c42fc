/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Runs at build time: makes the filters of seccomp-calls.def, so that a monitor that starts neither
 * links libseccomp nor spends time on them. Writes a header to standard output. */
#include "config.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"

enum kind {
	ANY,
	REQUEST,
	NOT_EXECUTABLE,
	FIRST_IS
};

static const struct call {
	unsigned roles;
	enum kind kind;
	const char *name;
	unsigned long value;
} calls[] = {
#define CALL(roles, name)         { roles, ANY, #name, 0 },
#define IOCTL(roles, request)     { roles, REQUEST, "ioctl", request },
#define NO_EXEC(roles, name)      { roles, NOT_EXECUTABLE, #name, 0 },
#define FIRST(roles, name, value) { roles, FIRST_IS, #name, value },
#include "vmm/seccomp-calls.def"
};

static int add(scmp_filter_ctx ctx, const struct call *c)
{
	int nr = seccomp_syscall_resolve_name(c->name);
	struct scmp_arg_cmp check;

	if (nr == __NR_SCMP_ERROR)
		return -ENOSYS;
	switch (c->kind) {
	case REQUEST: /* the kernel looks at the low half only */
		check = SCMP_A1(SCMP_CMP_MASKED_EQ, 0xFFFFFFFF, c->value);
		break;
	case NOT_EXECUTABLE:
		check = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
		break;
	case FIRST_IS:
		check = SCMP_A0(SCMP_CMP_MASKED_EQ, 0xFFFFFFFF, c->value);
		break;
	default:
		return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 0);
	}
	return seccomp_rule_add_array(ctx, SCMP_ACT_ALLOW, nr, 1, &check);
}

static int print(scmp_filter_ctx ctx, const char *name)
{
	cleanup_close int fd = memfd_create(name, MFD_CLOEXEC);
	struct sock_filter word;
	int r = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);

	if (r < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return r < 0 ? r : -errno;
	printf("static const struct seccomp_word seccomp_%s[] = {\n", name);
	while (read(fd, &word, sizeof(word)) == (ssize_t)sizeof(word))
		printf("\t{ 0x%x, %u, %u, 0x%x },\n", word.code, word.jt, word.jf, word.k);
	printf("};\n");
	return 0;
}

static int make(unsigned role, const char *name)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(calls); i++) {
		if (!(calls[i].roles & role))
			continue;
		r = add(ctx, &calls[i]);
		if (r < 0)
			fprintf(stderr, "%s: %s\n", calls[i].name, strerror(-r));
	}
	/* A tree instead of a list: a call is found in a few steps. */
	if (r == 0)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (r == 0)
		r = print(ctx, name);
	if (ctx)
		seccomp_release(ctx);
	return r;
}

int main(void)
{
	printf("/* Made by seccomp-gen from vmm/seccomp-calls.def. */\n#include <stdint.h>\n"
	       "struct seccomp_word {\n\tuint16_t code;\n\tuint8_t jt, jf;\n\tuint32_t k;\n};\n");
	if (make(1, "vcpu") < 0 || make(2, "io") < 0 || make(4, "main") < 0)
		return 1;
	return fflush(stdout) == 0 ? 0 : 1;
}
