/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The way in: PVH (32-bit protected mode, paging off, ebx = hvm_start_info) to 64-bit code with an
 * identity map. With 1 GiB pages the map is a constant that covers 512 GiB, so the first line of C
 * runs after some twenty instructions; without them, 2 MiB pages of the first 4 GiB are written
 * here and memory.c adds more when they are asked for.
 */
#define CR0_PE     0x00000001
#define CR0_PG     0x80000000
#define CR0_LONG   0x80010033 /* PG WP NE ET MP PE */
#define CR4_PAE    0x00000020
#define MSR_EFER   0xC0000080
#define EFER_LME   0x100
#define PAGE_FLAGS 0x03 /* present, writable */
#define LARGE_PAGE 0x83
#define STACK_SIZE 16384

	/* XEN_ELFNOTE_PHYS32_ENTRY */
	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18
	.asciz "Xen"
	.long start32

	.section .text.start, "ax"
	.code32
	.globl start32
start32:
	cli
	cld
	lgdt gdt_pointer
	ljmp $0x18, $1f
1:	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $boot_stack_top, %esp
	movl %ebx, start_info_address
	movl $0x80000001, %eax
	cpuid
	testl $(1 << 26), %edx
	movl $pml4_gigabytes, %esi
	jnz enter_long
	/* Four tables of 2 MiB pages. */
	movl $page_directories, %edi
	movl $LARGE_PAGE, %eax
	movl $2048, %ecx
1:	movl %eax, (%edi)
	movl $0, 4(%edi)
	addl $0x200000, %eax
	addl $8, %edi
	decl %ecx
	jnz 1b
	movl $pml4_megabytes, %esi
enter_long:
	movl %esi, page_root
	movl $CR4_PAE, %eax
	movl %eax, %cr4
	movl %esi, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_LME, %eax
	wrmsr
	movl $CR0_LONG, %eax
	movl %eax, %cr0
	ljmp $0x08, $1f
	.code64
1:	xorl %ebp, %ebp
	movl %ebp, %fs
	movl %ebp, %gs
	call guest_main
2:	cli
	hlt
	jmp 2b

/*
 * The other processors: copied to a page below 1 MiB, entered in real mode with cs = page >> 4.
 * ds, as cs, reaches the copy; everything after the switch is at its linked address.
 */
	.code16
	.globl ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	cld
	movw %cs, %ax
	movw %ax, %ds
	lgdtl ap_gdt_pointer - ap_trampoline
	movl $(CR0_PE | 0x10), %eax
	movl %eax, %cr0
	ljmpl $0x18, $ap_start32
	.balign 4
ap_gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt
ap_trampoline_end:

	.code32
ap_start32:
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $CR4_PAE, %eax
	movl %eax, %cr4
	movl page_root, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_LME, %eax
	wrmsr
	movl $CR0_LONG, %eax
	movl %eax, %cr0
	ljmp $0x08, $1f
	.code64
1:	xorl %ebp, %ebp
	movl %ebp, %fs
	movl %ebp, %gs
	/* One processor is started at a time: the stack is handed over in a variable. */
	movq ap_stack_top, %rsp
	call ap_main
2:	cli
	hlt
	jmp 2b

/*
 * Interrupts: stub n pushes an error code where the processor does not, and n. No SSE state is in
 * use anywhere, so the general registers are all there is to keep.
 */
	.text
	.globl interrupt_stubs
	.balign 16
interrupt_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
	pushq $0
	.endif
	pushq $vector
	jmp interrupt_common
	.set vector, vector + 1
	.endr

interrupt_common:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	pushq %rbp
	pushq %rsi
	pushq %rdi
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	cld
	movq %rsp, %rdi
	movq %rsp, %rbp
	andq $-16, %rsp
	call interrupt_handle
	movq %rbp, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rdi
	popq %rsi
	popq %rbp
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	addq $16, %rsp
	iretq

	.data
	.balign 8
	.globl gdt
gdt:
	.quad 0
	.quad 0x00AF9B000000FFFF /* 0x08: 64-bit code */
	.quad 0x00CF93000000FFFF /* 0x10: data */
	.quad 0x00CF9B000000FFFF /* 0x18: 32-bit code */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt

	.balign 4096
	.globl pml4_gigabytes
pml4_gigabytes:
	.quad pdpt_gigabytes + PAGE_FLAGS
	.fill 511, 8, 0
pdpt_gigabytes:
	.set page, 0
	.rept 512
	.quad (page << 30) + LARGE_PAGE
	.set page, page + 1
	.endr
	.globl pdpt_megabytes
pml4_megabytes:
	.quad pdpt_megabytes + PAGE_FLAGS
	.fill 511, 8, 0
pdpt_megabytes:
	.set page, 0
	.rept 4
	.quad page_directories + (page << 12) + PAGE_FLAGS
	.set page, page + 1
	.endr
	.fill 508, 8, 0

	.globl start_info_address, page_root, ap_stack_top
	.balign 8
start_info_address:
	.quad 0
page_root:
	.quad 0
ap_stack_top:
	.quad 0

	.bss
	.balign 4096
page_directories:
	.skip 4 * 4096
	.skip STACK_SIZE
boot_stack_top:

	.section .note.GNU-stack, "", @progbits
