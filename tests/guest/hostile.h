/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The tests of hostile.elf. */
#include <stdbool.h>

bool test_ring(void);
bool test_race(void);
bool test_registers(void);
bool test_queues(void);
bool test_config(void);
bool test_requests(void);
bool test_inflight(void);
bool test_device_resets(void);
bool test_notify_storm(void);
bool test_interrupt_storm(void);
bool test_flood(void);
bool test_ports(void);
bool test_strings(void);
bool test_mmio(void);
bool test_pci_config(void);
bool test_msr(void);
bool test_triple(void);
bool test_bars(void);
bool test_ecam(void);
bool test_spin(void);
bool test_nowhere(void);
