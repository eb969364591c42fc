/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest in the shape of kvm-unit-tests' flat images: ELF for 32 bits, entered by Multiboot. Writes
 * "multiboot: ", its command line and a newline to the test device's serial port and ends with the test
 * device's exit port: 3 when all was as it should be, else 0.
 */
#define HEADER_MAGIC  0x1BADB002
#define STARTED_MAGIC 0x2BADB002
#define INFO_CMDLINE  16
#define PORT_SERIAL   0xF1
#define PORT_EXIT     0xF4

	.section .text
	.code32
	.balign 4
	.long HEADER_MAGIC, 0, -HEADER_MAGIC

	.globl start
start:
	cmpl $STARTED_MAGIC, %eax
	movl $0, %eax
	jne 2f
	movw $PORT_SERIAL, %dx
	movl $words, %esi
	movl $words_end - words, %ecx
	rep outsb
	movl INFO_CMDLINE(%ebx), %esi
	jmp 4f
3:	outsb
4:	cmpb $0, (%esi)
	jne 3b
	movb $'\n', %al
	outb %al, %dx
	movl $3, %eax
2:	movw $PORT_EXIT, %dx
	outl %eax, %dx
1:	cli
	hlt
	jmp 1b

	.section .rodata
words:	.ascii "multiboot: "
words_end:
