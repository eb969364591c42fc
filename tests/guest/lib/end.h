/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The ways out of a guest; each returns when it had no effect. */
void end_reset_acpi(void);  /* the FADT's reset register */
void end_reset_i8042(void); /* pulse the reset line of the keyboard controller */
void end_triple_fault(void);
void end_s5(void);          /* hardware-reduced: sleep control register; else PM1a and _S5_ */
void end_testdev(int code); /* port 0xF4 */
