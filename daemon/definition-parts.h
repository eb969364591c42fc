/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Parts of a definition that both engines read. Pure. */
#include <jansson.h>
#include <stdbool.h>

#include "common/error.h"

/* Number of virtual CPUs: cpus, cpus.count, or the product of cpus.topology. */
unsigned definition_cpu_count(const json_t *definition);

/* Request queues of a virtio disk: as given, or one per CPU up to four. */
unsigned definition_disk_queues(const json_t *definition, const json_t *disk);

/* Does a card of network "user" forward TCP ports? */
bool definition_forwards_tcp(const json_t *definition);

/* A port forward taken apart: "tcp:8080:80", "udp:127.0.0.1:5353:53". */
struct forward {
	bool udp;
	char address[16]; /* "" for all */
	unsigned host_port, guest_port;
};
/* 0, or -EINVAL. */
int parse_forward(const char *text, struct forward *ret);

/* What is wrong on every engine: -EINVAL with the field. */
int definition_check_parts(const json_t *definition, struct vmd_error *err);
