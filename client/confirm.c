/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/confirm.h"

#include <stdio.h>
#include <unistd.h>

#include "client/output.h"

bool confirm(const char *question)
{
	char answer[16];

	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return true;
	put_clean(stderr, question);
	fputs(" [y/N] ", stderr);
	fflush(stderr);
	if (!fgets(answer, sizeof(answer), stdin))
		return false;
	return answer[0] == 'y' || answer[0] == 'Y';
}
