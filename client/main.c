/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/cmd.h"

int main(int argc, char **argv)
{
	return vmctl_main(argc, argv);
}
