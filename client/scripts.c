/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* The completion scripts, for `vmctl completion SHELL`; paths come from the build. */
#define EMBED(symbol, file)                                  \
	__asm__(".section .rodata\n"                         \
	        ".globl " #symbol "\n" #symbol ":\n"         \
	        ".incbin \"" file "\"\n"                     \
	        ".globl " #symbol "_end\n" #symbol "_end:\n" \
	        ".byte 0\n"                                  \
	        ".previous\n")

EMBED(completion_bash, VMCTL_COMPLETIONS "/vmctl.bash");
EMBED(completion_zsh, VMCTL_COMPLETIONS "/_vmctl");
EMBED(completion_fish, VMCTL_COMPLETIONS "/vmctl.fish");
