/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guest.h"
#include "irq.h"

#define UART          0x3F8
#define UART_IIR_FCR  (UART + 2)
#define UART_LCR      (UART + 3)
#define UART_MCR      (UART + 4)
#define UART_LSR      (UART + 5)
#define LSR_DATA      0x01
#define LSR_THR_EMPTY 0x20
#define FIFO_BYTES    16
#define POLL_US       1000

static bool uart_ready;
static volatile uint32_t print_lock;

static void uart_init(void)
{
	out8(UART_LCR, 0x03);     /* 8n1 */
	out8(UART_IIR_FCR, 0x01); /* FIFOs on, which empties them */
	out8(UART_MCR, 0x0B);
	uart_ready = true;
}

/* One look at the line status for each 16 bytes: with an empty transmitter, the FIFO takes that. */
void console_write(const char *s, size_t n)
{
	if (!uart_ready)
		uart_init();
	while (n > 0) {
		size_t part = n < FIFO_BYTES ? n : FIFO_BYTES;

		while (!(in8(UART_LSR) & LSR_THR_EMPTY))
			cpu_relax();
		for (size_t i = 0; i < part; i++)
			out8(UART, (uint8_t)s[i]);
		s += part;
		n -= part;
	}
}

int console_getc(void)
{
	if (!uart_ready)
		uart_init();
	return in8(UART_LSR) & LSR_DATA ? in8(UART) : -1;
}

void console_read_line(char *line, size_t size)
{
	size_t n = 0;

	for (;;) {
		int c = console_getc();

		if (c < 0) {
			sleep_us(POLL_US);
		} else if (c == '\n' || c == '\r') {
			line[n] = '\0';
			return;
		} else if (n + 1 < size) {
			line[n++] = (char)c;
		}
	}
}

struct text {
	char *to;
	size_t size, n;
};

static void put(struct text *t, char c)
{
	if (t->n + 1 < t->size)
		t->to[t->n] = c;
	t->n++;
}

static void put_padded(struct text *t, const char *s, size_t n, size_t width, char fill)
{
	for (; width > n; width--)
		put(t, fill);
	while (n-- > 0)
		put(t, *s++);
}

static void put_number(struct text *t, uint64_t v, bool negative, unsigned base, size_t width,
                       char fill)
{
	char digits[24];
	size_t n = sizeof(digits);

	do {
		digits[--n] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (negative)
		digits[--n] = '-';
	put_padded(t, digits + n, sizeof(digits) - n, width, fill);
}

static uint64_t next_unsigned(va_list *ap, bool wide)
{
	return wide ? va_arg(*ap, uint64_t) : va_arg(*ap, uint32_t);
}

static void put_argument(struct text *t, char kind, bool wide, size_t width, char fill, va_list *ap)
{
	const char *s;
	char c;
	int64_t v;

	switch (kind) {
	case 's':
		s = va_arg(*ap, const char *);
		put_padded(t, s, strlen(s), width, ' ');
		break;
	case 'c':
		c = (char)va_arg(*ap, int);
		put(t, c);
		break;
	case 'd':
		v = wide ? va_arg(*ap, int64_t) : va_arg(*ap, int32_t);
		put_number(t, v < 0 ? -(uint64_t)v : (uint64_t)v, v < 0, 10, width, fill);
		break;
	case 'u':
		put_number(t, next_unsigned(ap, wide), false, 10, width, fill);
		break;
	case 'p':
		put_number(t, va_arg(*ap, uint64_t), false, 16, width, fill);
		break;
	case 'x':
		put_number(t, next_unsigned(ap, wide), false, 16, width, fill);
		break;
	default:
		put(t, kind);
		break;
	}
}

size_t format_text(char *to, size_t size, const char *format, va_list ap)
{
	struct text t = { .to = to, .size = size };
	va_list args;

	va_copy(args, ap);
	for (; *format; format++) {
		size_t width = 0;
		bool wide = false;
		char fill = ' ';

		if (*format != '%') {
			put(&t, *format);
			continue;
		}
		if (*++format == '0')
			fill = '0';
		for (; *format >= '0' && *format <= '9'; format++)
			width = width * 10 + (size_t)(*format - '0');
		for (; *format == 'l' || *format == 'z'; format++)
			wide = true;
		put_argument(&t, *format, wide, width, fill, &args);
	}
	va_end(args);
	if (size > 0)
		to[t.n < size ? t.n : size - 1] = '\0';
	return t.n < size ? t.n : size - 1;
}

void print(const char *format, ...)
{
	char text[512];
	size_t n;
	va_list ap;

	va_start(ap, format);
	n = format_text(text, sizeof(text), format, ap);
	va_end(ap);
	while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE))
		cpu_relax();
	console_write(text, n);
	__atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}
