/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Questions to a person. */
#include <stdbool.h>

/* Asks "question [y/N] " at a terminal and reads the answer; true without asking when there is no
 * terminal to ask at. */
bool confirm(const char *question);
