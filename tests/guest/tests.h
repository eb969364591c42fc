/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The tests of bare.elf. Each prints what it sees in lines "NAME: ..." and gives the result. */
#include <stdbool.h>

bool test_hello(void);
bool test_echo(void);
bool test_idle(void);
bool test_memory(void);
bool test_hole(void);
bool test_acpi(void);
bool test_smp(void);
bool test_cpuid(void);
bool test_tick(void);
bool test_exits(void);
bool test_clock(void);
bool test_panic(void);
bool test_button(void);
bool test_resets(void);
bool test_pci(void);
bool test_blk(void);
bool test_blk_readonly(void);
bool test_blk_write(void);
bool test_blk_verify(void);
bool test_net_ping(void);
bool test_net_loop(void);
bool test_net_echo(void);
bool test_rng(void);
bool test_balloon(void);
bool test_console(void);
bool test_dirty(void);
