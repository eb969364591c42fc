/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "vmm/kvm-probe-guest.h"

#include "common/macros.h"

#ifdef __x86_64__

/*
 * Memory of the guest: scratch at 0x6000, a zeroed XSAVE area at 0x7000, stack below 0x80000, one
 * GiB mapped to itself; what lies above faults. Numbers are those of kvm-probe-guest.h.
 */
#define STR2(x) #x
#define STR(x)  STR2(x)

/* clang-format off */
asm(".pushsection .rodata.probe_guest, \"a\"\n"
    ".code64\n"
    ".globl probe_guest_start, probe_guest_end\n"
    ".globl probe_guest_on_int3, probe_guest_on_page_fault\n"
    "probe_guest_start:\n"
    "good:	mov $" STR(PROBE_GOOD) ", %eax\n"
    "	out %eax, $" STR(PROBE_PORT_END) "\n"
    "bad:	mov $1, %eax\n"
    "	out %eax, $" STR(PROBE_PORT_END) "\n"
    "	hlt\n"

    "probe_guest_on_int3:\n"
    "	mov $0x33, %ebx\n"
    "	iretq\n"
    "probe_guest_on_page_fault:\n"
    "	mov %cr2, %rbx\n"
    "	add $8, %rsp\n"
    "	mov %r8, (%rsp)\n"
    "	iretq\n"

    /* The sum of 1..100 by recursion: calls, stack, arithmetic. */
    "guest_arithmetic:\n"
    "	mov $100, %edi\n"
    "	call sum\n"
    "	cmp $5050, %rax\n"
    "	jne bad\n"
    "	jmp good\n"
    "sum:	test %edi, %edi\n"
    "	jz 1f\n"
    "	push %rdi\n"
    "	dec %edi\n"
    "	call sum\n"
    "	pop %rdi\n"
    "	add %rdi, %rax\n"
    "	ret\n"
    "1:	xor %eax, %eax\n"
    "	ret\n"

    "guest_cmpxchg16b:\n"
    "	mov $0x6000, %edi\n"
    "	mov $1, %eax\n"
    "	mov $2, %edx\n"
    "	mov %rax, (%rdi)\n"
    "	mov %rdx, 8(%rdi)\n"
    "	mov $3, %ebx\n"
    "	mov $4, %ecx\n"
    "	lock cmpxchg16b (%rdi)\n"
    "	jnz bad\n"
    "	cmpq $3, (%rdi)\n"
    "	jne bad\n"
    "	cmpq $4, 8(%rdi)\n"
    "	jne bad\n"
    "	lock cmpxchg16b (%rdi)\n"
    "	jz bad\n"
    "	cmp $3, %rax\n"
    "	jne bad\n"
    "	cmp $4, %rdx\n"
    "	jne bad\n"
    "	jmp good\n"

    "guest_int3:\n"
    "	xor %ebx, %ebx\n"
    "	int3\n"
    "	cmp $0x33, %ebx\n"
    "	jne bad\n"
    "	jmp good\n"

    "guest_page_fault:\n"
    "	lea 1f(%rip), %r8\n"
    "	mov $0x7f000000, %edi\n"
    "	mov (%rdi), %eax\n"
    "	jmp bad\n"
    "1:	cmp %rdi, %rbx\n"
    "	jne bad\n"
    "	jmp good\n"

    /*
     * XSAVE and XRSTOR of SSE state; FXSAVE where the processor is too old. The area is touched
     * first: QEMU's emulation of SVM loses XCR0 at the next exit (XSETBV is not intercepted).
     */
    "guest_xsave:\n"
    "	mov $1, %eax\n"
    "	xor %ecx, %ecx\n"
    "	cpuid\n"
    "	mov $0x7000, %edi\n"
    "	movb $0, (%rdi)\n"
    "	mov $0x1122334455667788, %r8\n"
    "	bt $26, %ecx\n"
    "	jnc 2f\n"
    "	mov %cr4, %rax\n"
    "	or $0x40000, %rax\n"
    "	mov %rax, %cr4\n"
    "	xor %ecx, %ecx\n"
    "	xgetbv\n"
    "	or $3, %eax\n"
    "	xsetbv\n"
    "	movq %r8, %xmm0\n"
    "	mov $3, %eax\n"
    "	xor %edx, %edx\n"
    "	xsave64 (%rdi)\n"
    "	pxor %xmm0, %xmm0\n"
    "	xrstor64 (%rdi)\n"
    "	jmp 3f\n"
    "2:	movq %r8, %xmm0\n"
    "	fxsave64 (%rdi)\n"
    "	pxor %xmm0, %xmm0\n"
    "	fxrstor64 (%rdi)\n"
    "3:	movq %xmm0, %rax\n"
    "	cmp %r8, %rax\n"
    "	jne bad\n"
    "	jmp good\n"

    "guest_rdtsc:\n"
    "	rdtsc\n"
    "	shl $32, %rdx\n"
    "	or %rax, %rdx\n"
    "	mov %rdx, %r8\n"
    "	mov $1000, %ecx\n"
    "1:	dec %ecx\n"
    "	jnz 1b\n"
    "	rdtsc\n"
    "	shl $32, %rdx\n"
    "	or %rax, %rdx\n"
    "	cmp %r8, %rdx\n"
    "	jbe bad\n"
    "	jmp good\n"

    "guest_port:\n"
    "	xor %eax, %eax\n"
    "	in $" STR(PROBE_PORT_IN) ", %al\n"
    "	cmp $" STR(PROBE_IN_VALUE) ", %eax\n"
    "	jne bad\n"
    "	out %al, $" STR(PROBE_PORT_OUT) "\n"
    "	jmp good\n"

    "guest_mmio:\n"
    "	mov $0x10000000, %edi\n"
    "	movl $0x12345678, (%rdi)\n"
    "	mov 4(%rdi), %eax\n"
    "	cmp $0x07654321, %eax\n"
    "	jne bad\n"
    "	jmp good\n"

    "guest_loop:\n"
    "	dec %rcx\n"
    "	jnz guest_loop\n"
    "	jmp good\n"

    "guest_exits:\n"
    "	out %al, $" STR(PROBE_PORT_OUT) "\n"
    "	dec %rcx\n"
    "	jnz guest_exits\n"
    "	jmp good\n"
    "probe_guest_end:\n"
    "	.byte 0\n"
    ".popsection\n");
/* clang-format on */

extern const char guest_arithmetic[], guest_cmpxchg16b[], guest_int3[], guest_page_fault[],
	guest_xsave[], guest_rdtsc[], guest_port[], guest_mmio[], guest_loop[], guest_exits[];

const struct probe_check probe_checks[] = {
	{ "arithmetic", "64-bit code", guest_arithmetic },
	{ "cmpxchg16b", "cmpxchg16b", guest_cmpxchg16b },
	{ "int3", "int3 through the interrupt table", guest_int3 },
	{ "page_fault", "a page fault", guest_page_fault },
	{ "xsave", "xsave and xrstor", guest_xsave },
	{ "rdtsc", "rdtsc", guest_rdtsc },
	{ "port_exit", "a port access", guest_port },
	{ "mmio_exit", "a device memory access", guest_mmio },
};
const size_t probe_n_checks = ARRAY_SIZE(probe_checks);
const struct probe_check probe_loop = { "loop", "a counted loop", guest_loop };
const struct probe_check probe_exits = { "exits", "repeated port access", guest_exits };

#endif
