/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The engine under test. The integration tests run the same on both engines: VMD_TEST_ENGINE says
 * which one the guests of a run are to have ("qemu", the default, or "kvm"). Five more variables
 * are for runs outside the build tree, as tests/host makes them:
 *   VMD_TEST_BUILD     where the programs are, instead of the build directory
 *   VMD_TEST_CMDLINE   words for the kernel command line of all Linux guests
 *   VMD_TEST_PATIENCE  every time limit is multiplied by it (1): for machines that are emulated
 *   VMD_TEST_PROBE     program instead of vmd-kvm-probe
 *   VMD_TEST_LOGS      directory that gets consoles, logs and events, named by test and number
 */
#include <jansson.h>
#include <stdbool.h>

struct client;

/* "qemu" or "kvm". */
const char *engine_name(void);
bool engine_is(const char *name);
/* Names the engine under test in a definition that names none; returns the definition. */
json_t *engine_define(json_t *definition);
/*
 * `boot` of a guest that needs no kit, is there at once and never does anything, nor hears a power
 * button: firmware that finds nothing to boot, or on engine kvm, which has no firmware, a bare
 * guest. New reference.
 */
json_t *engine_bare_boot(void);
/* Fails the test when vmd says that the engine under test cannot run here. */
void engine_expect_available(struct client *c);
/* Fails the test unless vm.get of the guest, which has run, tells the engine under test. */
void engine_expect(struct client *c, const char *vm);
/* Whether host.info lists this capability for the engine under test. */
bool engine_has(struct client *c, const char *capability);

/* Path of a file of the build (static storage, eight in turn). */
const char *test_build(const char *name);
/* A time limit on this machine. For what has to be there in time, never for what must take long. */
int patient(int ms);
