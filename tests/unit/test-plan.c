/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From definitions to QEMU's arguments and vmd-vmm's configuration. */
#include "config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "daemon/host.h"
#include "daemon/qemu-cmdline.h"
#include "daemon/vmm-config.h"

TestSuite(plan, .timeout = 60);

static struct host_facts host = { .arch = "x86_64",
	                          .cpus = 2,
	                          .cpu_level = 3,
	                          .memory_bytes = 8ull << 30,
	                          .kvm_usable = true,
	                          .vmm = "/p/vmd-vmm",
	                          .qemu_x86_64 = "/p/qemu-system-x86_64",
	                          .passt = "/p/passt",
	                          .storage_daemon = "/p/qsd" };

/* JSON with ' for ". */
static json_t *js(const char *text)
{
	cleanup_free char *copy = strdup(text);
	json_error_t error;
	json_t *value;

	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	value = json_loads(copy, 0, &error);
	cr_assert(value, "the test's JSON is wrong: %s", error.text);
	return value;
}

static struct plan qemu_plan_of(const char *definition, const char *accel)
{
	cleanup_json json_t *d = js(definition);
	struct vmd_error err = VMD_ERROR_INIT;
	struct plan plan;

	cr_assert_eq(qemu_check(&host, d, accel, &err), 0, "%s", err.message);
	cr_assert_eq(qemu_build(&(struct qemu_input){ .definition = d,
	                                              .host = &host,
	                                              .accel = accel,
	                                              .passt = true,
	                                              .runtime_dir = "/r" },
	                        &plan, &err),
	             0, "%s", err.message);
	return plan;
}

/* Some value of the option holds the text. */
static bool has(const struct plan *plan, const char *option, const char *text)
{
	const json_t *argument;
	size_t i;

	json_array_foreach(plan->argv, i, argument)
		if (strcmp(json_string_value(argument), option) == 0 &&
		    strstr(json_string_value(json_array_get(plan->argv, i + 1)), text))
			return true;
	return false;
}

static void expect_argument(const char *definition, const char *accel, const char *option,
                            const char *text, bool there)
{
	struct plan plan = qemu_plan_of(definition, accel);
	cleanup_free char *all = jsonx_dump(plan.argv);

	cr_expect_eq(has(&plan, option, text), there, "%s %s in %s", option, text, all);
	plan_deinit(&plan);
}

#define KERNEL "'boot':{'kernel':'/k'}"

Test(plan, qemu_has_no_nesting_unless_asked)
{
	expect_argument("{'name':'a'," KERNEL "}", "kvm", "-cpu", "host,vmx=off,svm=off", true);
	expect_argument("{'name':'a'," KERNEL ",'cpus':{'nested':true}}", "kvm", "-cpu", "off",
	                false);
	expect_argument("{'name':'a'," KERNEL "}", "tcg", "-cpu", "svm=off", true);
}

Test(plan, qemu_memory_comes_from_where_it_is_told)
{
	expect_argument("{'name':'a'," KERNEL "}", "kvm", "-object", "memory-backend", false);
	expect_argument("{'name':'a'," KERNEL ",'memory_backing':{'prealloc':true}}", "kvm",
	                "-object", "\"prealloc\":true", true);
	expect_argument("{'name':'a'," KERNEL ",'memory_backing':{'prealloc':true}}", "kvm",
	                "-machine", "memory-backend=memory0", true);
	/* More than the host has (8 GiB). */
	expect_argument("{'name':'a'," KERNEL ",'memory':'9G'}", "kvm", "-object",
	                "memory-backend-memfd", true);
}

Test(plan, qemu_disks_and_taps_have_queues)
{
	expect_argument("{'name':'a','cpus':2,'disks':[{'path':'/d','format':'raw'}]}", "kvm",
	                "-device", "\"num-queues\":2", true);
	expect_argument("{'name':'a','cpus':16,'disks':[{'path':'/d','format':'raw'}]}", "kvm",
	                "-device", "\"num-queues\":4", true);
	expect_argument("{'name':'a','disks':[{'path':'/d','format':'raw','queues':7}]}", "kvm",
	                "-device", "\"num-queues\":7", true);
	expect_argument("{'name':'a'," KERNEL
	                ",'nics':[{'network':'tap','ifname':'t','queues':3}]}",
	                "kvm", "-netdev", "tap,id=net0,fds=6:7:8", true);
	expect_argument("{'name':'a'," KERNEL
	                ",'nics':[{'network':'tap','ifname':'t','queues':3}]}",
	                "kvm", "-device", "\"vectors\":8", true);
}

static void expect_config(const char *definition, const char *config)
{
	cleanup_json json_t *d = js(definition), *want = js(config);
	cleanup_free char *text = NULL;
	struct vmd_error err = VMD_ERROR_INIT;
	struct plan plan;

	cr_assert_eq(vmm_check(&host, d, &err), 0, "%s: %s", err.field, err.message);
	cr_assert_eq(vmm_build(&(struct vmm_input){ d, &host, false }, &plan, &err), 0);
	text = jsonx_dump(plan.config);
	cr_expect(json_equal(plan.config, want), "%s", text);
	plan_deinit(&plan);
}

Test(plan, the_monitor_is_told_all)
{
	expect_config("{'name':'a'," KERNEL ",'memory':'64M','balloon':false,'console':false}",
	              "{'version':1,'paused':true,'incoming':false,'name':'a','kvm_fd':4,"
	              "'qmp_fd':5,'memory':{'bytes':67108864,'hugepages':'transparent',"
	              "'prealloc':false},'cpus':{'count':1,'model':'host','sockets':1,'cores':1,"
	              "'threads':1,'nested':false},'boot':{'cmdline':'','kernel_fd':6},'rng':true,"
	              "'pvpanic':true,'disks':[],'nics':[],"
	              "'actions':{'reboot':'reset','panic':'shutdown'}}");
	expect_config(
		"{'name':'b','uuid':'11111111-2222-3333-4444-555555555555','memory':'1G',"
		"'memory_backing':{'prealloc':true},'cpus':{'model':'x86-64-v2','nested':false,"
		"'topology':{'sockets':1,'cores':2,'threads':2}},"
		"'boot':{'kernel':'/k','initrd':'/i','cmdline':'quiet'},"
		"'console':{'device':'virtio'},'rng':false,'balloon':{'free_page_reporting':true},"
		"'disks':[{'path':'/d','format':'raw','readonly':true,'serial':'s1',"
		"'cache':'none','discard':'unmap','bandwidth':{'total':'1M'},"
		"'iops':{'read':100}}],"
		"'nics':[{'network':'user','mac':'52:54:00:00:00:01','forward':['tcp:1:2']},"
		"{'network':'tap','ifname':'t','queues':2},{'network':'none'}],"
		"'actions':{'on_reboot':'stop','on_panic':'pause'}}",
		"{'version':1,'paused':true,'incoming':false,'name':'b',"
		"'uuid':'11111111-2222-3333-4444-555555555555','kvm_fd':4,'qmp_fd':5,"
		"'memory':{'bytes':1073741824,'hugepages':'transparent','prealloc':true},"
		"'cpus':{'count':4,'model':'x86-64-v2','sockets':1,'cores':2,'threads':2,"
		"'nested':false},'boot':{'cmdline':'quiet','kernel_fd':6,'initrd_fd':7},"
		"'console':{'device':'virtio','fd':8},'rng':false,"
		"'balloon':{'deflate_on_oom':false,'free_page_reporting':true},'pvpanic':true,"
		"'disks':[{'id':'disk0','readonly':true,'discard':true,'cache':'none','queues':4,"
		"'fd':9,'serial':'s1','limits':{'bytes_per_s':1048576,'read_ops_per_s':100}}],"
		"'nics':[{'id':'nic0','mac':'52:54:00:00:00:01','stream_fd':10},"
		"{'id':'nic1','tap_fds':[11,12]},{'id':'nic2'}],"
		"'actions':{'reboot':'shutdown','panic':'pause'}}");
}

/* The value of the nth of an option, as JSON. */
static json_t *argument(const json_t *argv, const char *option, unsigned nth)
{
	const json_t *entry;
	size_t i;

	json_array_foreach(argv, i, entry)
		if (strcmp(json_string_value(entry), option) == 0 && nth-- == 0)
			return json_loads(json_string_value(json_array_get(argv, i + 1)), 0, NULL);
	cr_assert_fail("there is no such %s", option);
	return NULL;
}

static void expect_json(json_t *have, const char *want)
{
	cleanup_json json_t *owned = have, *expected = js(want);
	cleanup_free char *text = jsonx_dump(owned);

	cr_expect(json_equal(owned, expected), "%s", text);
}

/* Number, what it is, and of which disk; of one of the two processes. */
static void expect_fd(const struct plan *plan, bool storage, int number, enum plan_fd_kind kind,
                      size_t index)
{
	for (size_t i = 0; i < plan->n_fds; i++) {
		const struct plan_fd *fd = &plan->fds[i];

		if (fd->storage != storage || fd->number != number)
			continue;
		cr_expect_eq(fd->kind, kind, "%d", number);
		cr_expect_eq(fd->index, index, "%d", number);
		return;
	}
	cr_expect_fail("there is no descriptor %d", number);
}

static struct plan vmm_plan_of(const char *definition)
{
	cleanup_json json_t *d = js(definition);
	struct vmd_error err = VMD_ERROR_INIT;
	struct plan plan;

	cr_assert_eq(vmm_check(&host, d, &err), 0, "%s: %s", err.field, err.message);
	cr_assert_eq(vmm_build(&(struct vmm_input){ d, &host, false }, &plan, &err), 0, "%s",
	             err.message);
	return plan;
}

Test(plan, disks_that_are_not_raw_are_the_storage_daemons)
{
	struct plan plan = vmm_plan_of(
		"{'name':'a'," KERNEL ",'disks':[{'path':'/r','format':'raw'},"
		"{'path':'/q','format':'qcow2','serial':'s','cache':'none','discard':'unmap',"
		"'iops':{'total':9}},"
		"{'path':'/v','format':'vdi','readonly':true,'cache':'unsafe'}]}");
	const json_t *disks = json_object_get(plan.config, "disks");

	expect_json(json_incref(json_array_get(disks, 1)),
	            "{'id':'disk1','readonly':false,'discard':true,'cache':'none','queues':1,"
	            "'vhost_user_fd':9,'serial':'s','limits':{'ops_per_s':9}}");
	expect_json(json_incref(json_array_get(disks, 2)),
	            "{'id':'disk2','readonly':true,'discard':false,'cache':'unsafe','queues':1,"
	            "'vhost_user_fd':10}");
	expect_fd(&plan, false, 8, PLAN_FD_DISK, 0);
	expect_fd(&plan, false, 9, PLAN_FD_STORAGE, 1);
	expect_fd(&plan, false, 10, PLAN_FD_STORAGE, 2);
	expect_fd(&plan, true, 3, PLAN_FD_DISK, 1);
	expect_fd(&plan, true, 4, PLAN_FD_EXPORT, 1);
	expect_fd(&plan, true, 5, PLAN_FD_DISK, 2);
	expect_fd(&plan, true, 6, PLAN_FD_EXPORT, 2);
	cr_expect_eq(json_array_size(plan.storage_argv), 1u + 2 * 3 * 2);
	cr_expect_str_eq(json_string_value(json_array_get(plan.storage_argv, 0)), "/p/qsd");
	expect_json(argument(plan.storage_argv, "--blockdev", 0),
	            "{'node-name':'disk1-file','driver':'file','filename':'/proc/self/fd/3',"
	            "'locking':'off','discard':'unmap','read-only':false,"
	            "'cache':{'direct':true,'no-flush':false}}");
	expect_json(argument(plan.storage_argv, "--blockdev", 1),
	            "{'node-name':'disk1','driver':'qcow2','file':'disk1-file','backing':null,"
	            "'discard':'unmap','read-only':false,"
	            "'cache':{'direct':true,'no-flush':false}}");
	expect_json(argument(plan.storage_argv, "--export", 0),
	            "{'type':'vhost-user-blk','id':'disk1','node-name':'disk1','writable':true,"
	            "'addr':{'type':'fd','str':'4'}}");
	expect_json(argument(plan.storage_argv, "--blockdev", 3),
	            "{'node-name':'disk2','driver':'vdi','file':'disk2-file','discard':'ignore',"
	            "'read-only':true,'cache':{'direct':false,'no-flush':true}}");
	expect_json(argument(plan.storage_argv, "--export", 1),
	            "{'type':'vhost-user-blk','id':'disk2','node-name':'disk2','writable':false,"
	            "'addr':{'type':'fd','str':'6'}}");
	plan_deinit(&plan);
	plan = vmm_plan_of("{'name':'a'," KERNEL ",'disks':[{'path':'/r','format':'raw'}]}");
	cr_expect_null(plan.storage_argv);
	plan_deinit(&plan);
}

/* The base is opened before what is on it, for reading only, and named by nobody but us. */
Test(plan, an_overlay_is_opened_on_its_base)
{
	static const char definition[] =
		"{'name':'a'," KERNEL ",'disks':[{'path':'/t','format':'qcow2','discard':'unmap',"
		"'cache':'none','backing':{'path':'/b','format':'qcow2'}}]}";
	struct plan plan = vmm_plan_of(definition);

	expect_fd(&plan, true, 3, PLAN_FD_DISK, 0);
	expect_fd(&plan, true, 4, PLAN_FD_EXPORT, 0);
	expect_fd(&plan, true, 5, PLAN_FD_BACKING, 0);
	expect_json(argument(plan.storage_argv, "--blockdev", 0),
	            "{'node-name':'disk0-base-file','driver':'file','filename':'/proc/self/fd/5',"
	            "'locking':'off','discard':'ignore','read-only':true,"
	            "'cache':{'direct':true,'no-flush':false}}");
	expect_json(argument(plan.storage_argv, "--blockdev", 1),
	            "{'node-name':'disk0-base','driver':'qcow2','file':'disk0-base-file',"
	            "'backing':null,'discard':'ignore','read-only':true,"
	            "'cache':{'direct':true,'no-flush':false}}");
	expect_json(argument(plan.storage_argv, "--blockdev", 3),
	            "{'node-name':'disk0','driver':'qcow2','file':'disk0-file',"
	            "'backing':'disk0-base','discard':'unmap','read-only':false,"
	            "'cache':{'direct':true,'no-flush':false}}");
	plan_deinit(&plan);
	plan = qemu_plan_of(definition, "kvm");
	expect_json(argument(plan.argv, "-blockdev", 1),
	            "{'node-name':'disk0-base','driver':'qcow2','file':'disk0-base-file',"
	            "'backing':null,'discard':'ignore','read-only':true,"
	            "'cache':{'direct':true,'no-flush':false}}");
	expect_json(argument(plan.argv, "-blockdev", 3),
	            "{'node-name':'disk0','driver':'qcow2','file':'disk0-file',"
	            "'backing':'disk0-base','discard':'unmap','read-only':false,"
	            "'cache':{'direct':true,'no-flush':false}}");
	plan_deinit(&plan);
}

/* The most that the monitor takes fits the launch, all through the storage daemon. */
Test(plan, the_most_disks_fit)
{
	cleanup_json json_t *d = js("{'name':'a'," KERNEL ",'nics':[{'network':'tap','ifname':'t',"
	                            "'queues':8},{'network':'user'}]}");
	json_t *disks = json_array();
	struct vmd_error err = VMD_ERROR_INIT;
	struct plan plan;

	json_object_set_new(d, "disks", disks);
	for (int i = 0; i < 16; i++)
		json_array_append_new(disks, js("{'path':'/d','format':'qcow2',"
		                                "'backing':{'path':'/b','format':'raw'}}"));
	cr_assert_eq(vmm_check(&host, d, &err), 0, "%s", err.message);
	cr_assert_eq(vmm_build(&(struct vmm_input){ d, &host, false }, &plan, &err), 0, "%s",
	             err.message);
	plan_deinit(&plan);
	json_array_append_new(disks, js("{'path':'/d','format':'raw'}"));
	cr_expect_lt(vmm_check(&host, d, &err), 0);
	cr_expect_str_eq(err.field, "definition.disks");
}

Test(plan, without_the_storage_daemon_it_is_raw_disks_or_qemu)
{
	cleanup_json json_t *d = js("{'name':'a'," KERNEL ",'disks':[{'path':'/r','format':'raw'},"
	                            "{'path':'/q','format':'qcow2'}]}");
	struct vmd_error err = VMD_ERROR_INIT;
	struct engine_choice choice;

	cr_expect_eq(engine_choose(&host, d, &choice, &err), 0, "%s", err.message);
	cr_expect_eq(choice.engine, &engine_kvm);
	host.storage_daemon[0] = '\0';
	cr_expect_eq(engine_choose(&host, d, &choice, &err), 0, "%s", err.message);
	cr_expect_eq(choice.engine, &engine_qemu);
	cr_expect(strstr(choice.reason, "qemu-storage-daemon is not installed"), "%s",
	          choice.reason);
	json_object_set_new(d, "engine", json_string("kvm"));
	cr_expect_lt(engine_choose(&host, d, &choice, &err), 0);
	cr_expect_str_eq(err.field, "definition.disks[1].format");
	cr_expect(strstr(err.hint, "qemu-system-common"), "%s", err.hint);
}

static void expect_kvm_refusal(const char *definition, const char *field)
{
	cleanup_json json_t *d = js(definition);
	struct vmd_error err = VMD_ERROR_INIT;
	struct engine_choice choice;

	cr_expect_lt(engine_kvm.check(&host, d, &choice, &err), 0, "%s is accepted", definition);
	cr_expect_str_eq(err.field, field, "%s: %s", definition, err.message);
}

Test(plan, memory_may_be_more_than_the_host_has)
{
	cleanup_json json_t *d = js("{'name':'a'," KERNEL ",'memory':'9G'}");
	struct engine_choice choice;
	struct vmd_error err = VMD_ERROR_INIT;

	cr_expect_eq(engine_kvm.check(&host, d, &choice, &err), 0, "%s", err.message);
	cr_expect_eq(qemu_check(&host, d, "kvm", &err), 0, "%s", err.message);
}

Test(plan, what_our_monitor_lacks_is_refused_by_field)
{
	expect_kvm_refusal("{'name':'a','boot':{'firmware':'uefi'}}", "definition.boot.firmware");
	expect_kvm_refusal("{'name':'a','arch':'aarch64'," KERNEL "}", "definition.arch");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'cpus':65}", "definition.cpus");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'cpus':{'model':'EPYC'}}",
	                   "definition.cpus.model");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'cpus':{'model':'x86-64-v4'}}",
	                   "definition.cpus.model");
	expect_kvm_refusal("{'name':'a'," KERNEL
	                   ",'cpus':{'count':3,'topology':{'sockets':2,'cores':1,'threads':1}}}",
	                   "definition.cpus.topology");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'memory':'15M'}", "definition.memory");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'memory':'1025G'}", "definition.memory");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'memory':'9G','memory_backing':"
	                   "{'prealloc':true}}",
	                   "definition.memory");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'memory':'9G','memory_backing':"
	                   "{'hugepages':'1G'}}",
	                   "definition.memory");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'vsock':{'cid':3}}", "definition.vsock");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'display':'vnc'}", "definition.display");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'shares':[{'path':'/s','tag':'t'}]}",
	                   "definition.shares");
	expect_kvm_refusal("{'name':'a'," KERNEL
	                   ",'nics':[{'network':'user','forward':['tcp:0:1']}]}",
	                   "definition.nics[0].forward[0]");
	expect_kvm_refusal("{'name':'a'," KERNEL
	                   ",'nics':[{'network':'tap','ifname':{'fd':0},'queues':2}]}",
	                   "definition.nics[0].queues");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'cpus':{'model':'x86-64-v2','nested':true}}",
	                   "definition.cpus.nested");
	expect_kvm_refusal("{'name':'a'," KERNEL
	                   ",'disks':[{'path':'/d','format':'qcow2','bus':'scsi'}]}",
	                   "definition.disks");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'disks':[{'path':'/d','format':'vmdk',"
	                   "'backing':{'path':'/b','format':'vmdk'}}]}",
	                   "definition.disks[0].backing");
	expect_kvm_refusal("{'name':'a'," KERNEL ",'memory':'17M','memory_backing':"
	                   "{'hugepages':'2M'}}",
	                   "definition.memory");
}
