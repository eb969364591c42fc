/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/output.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <locale.h>
#include <string.h>
#include <time.h>

#include "client/cmd.h"
#include "client/die.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "common/timeutil.h"

enum {
	MAX_COLUMNS = 32,
	DAY_S = 86400,
};

const json_t *json_path(const json_t *value, const char *path)
{
	while (value && *path) {
		size_t len = strcspn(path, ".");
		char word[128];
		uint64_t index;

		snprintf(word, sizeof(word), "%.*s", (int)MIN_OF(len, sizeof(word) - 1), path);
		if (json_is_array(value) && parse_u64(word, &index) == 0)
			value = json_array_get(value, index);
		else
			value = json_object_get(value, word);
		path += len + (path[len] == '.');
	}
	return value;
}

const char *format_time(char *buf, size_t len, uint64_t wall_us)
{
	time_t t = (time_t)(wall_us / 1000000);
	struct tm tm;

	if (!localtime_r(&t, &tm) || strftime(buf, len, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		snprintf(buf, len, "@%" PRIu64, wall_us);
	return buf;
}

const char *format_duration(char *buf, size_t len, uint64_t us)
{
	uint64_t s = us / 1000000;

	if (us < 1000000)
		snprintf(buf, len, "%" PRIu64 "ms", us / 1000);
	else if (s < 10)
		snprintf(buf, len, "%.1fs", (double)us / 1e6);
	else if (s < 60)
		snprintf(buf, len, "%" PRIu64 "s", s);
	else if (s < 3600)
		snprintf(buf, len, "%" PRIu64 "m %02" PRIu64 "s", s / 60, s % 60);
	else if (s < DAY_S)
		snprintf(buf, len, "%" PRIu64 "h %02" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(buf, len, "%" PRIu64 "d %02" PRIu64 "h", s / DAY_S, s / 3600 % 24);
	return buf;
}

static void format_integer(struct strbuf *s, json_int_t v, enum column_kind kind)
{
	uint64_t now, us = v > 0 ? (uint64_t)v : 0;
	char buf[64];

	switch (kind) {
	case COL_SIZE:
		strbuf_append_str(s, format_size(buf, sizeof(buf), us));
		break;
	case COL_TIME:
		strbuf_append_str(s, us ? format_time(buf, sizeof(buf), us) : "");
		break;
	case COL_AGO:
		now = now_wall_us();
		if (us)
			strbuf_append_str(
				s, format_duration(buf, sizeof(buf), now > us ? now - us : 0));
		break;
	case COL_PERCENT:
		strbuf_printf(s, "%" PRIu64 "%%", us);
		break;
	default:
		strbuf_printf(s, "%" JSON_INTEGER_FORMAT, v);
	}
}

static void format_labels(struct strbuf *s, const json_t *object)
{
	const char *key, *sep = "";
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value) {
		if (json_is_null(value))
			continue;
		strbuf_append_str(s, sep);
		clean_word(s, key);
		strbuf_append_char(s, '=');
		format_value(s, value, COL_TEXT);
		sep = ",";
	}
}

static void format_array(struct strbuf *s, const json_t *array)
{
	for (size_t i = 0; i < json_array_size(array); i++) {
		if (i)
			strbuf_append_char(s, ',');
		format_value(s, json_array_get(array, i), COL_TEXT);
	}
}

static void format_text(struct strbuf *s, const char *text, enum column_kind kind)
{
	uint64_t bytes;
	char buf[64];

	if (kind == COL_SIZE && parse_size(text, &bytes) == 0)
		strbuf_append_str(s, format_size(buf, sizeof(buf), bytes));
	else
		clean_word(s, text);
}

void format_value(struct strbuf *s, const json_t *value, enum column_kind kind)
{
	switch (value ? json_typeof(value) : JSON_NULL) {
	case JSON_STRING:
		format_text(s, json_string_value(value), kind);
		break;
	case JSON_INTEGER:
		format_integer(s, json_integer_value(value), kind);
		break;
	case JSON_REAL:
		strbuf_printf(s, kind == COL_PERCENT ? "%.1f%%" : "%g", json_real_value(value));
		break;
	case JSON_TRUE:
		strbuf_append_str(s, "yes");
		break;
	case JSON_FALSE:
		strbuf_append_str(s, kind == COL_FLAG ? "" : "no");
		break;
	case JSON_OBJECT:
		format_labels(s, value);
		break;
	case JSON_ARRAY:
		format_array(s, value);
		break;
	case JSON_NULL:
		break;
	}
}

static void put_line(const char *text)
{
	fputs(text ? text : "", stdout);
	putchar('\n');
}

void out_json_line(const json_t *value)
{
	cleanup_free char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

	put_line(text);
}

int out_json(struct ctx *ctx, const json_t *value)
{
	size_t flags = JSON_ENCODE_ANY | (ctx->out_tty ? JSON_INDENT(2) : JSON_COMPACT);
	cleanup_free char *text = json_dumps(value, flags);

	put_line(text);
	return EXIT_DONE;
}

/* Splits --fields into columns that borrow from *text (the caller's copy). */
static size_t split_fields(char *text, struct column *columns)
{
	size_t n = 0;

	for (char *word = strtok(text, ","); word && n + 1 < MAX_COLUMNS; word = strtok(NULL, ","))
		columns[n++] = (struct column){ word, word, COL_TEXT };
	columns[n].field = NULL;
	return n;
}

static json_t *cut_object(const json_t *row, const struct column *columns)
{
	json_t *cut = xpack("{}");

	for (; columns->field; columns++) {
		const json_t *v = json_path(row, columns->field);

		xset(cut, columns->field, v ? json_incref((json_t *)(uintptr_t)v) : json_null());
	}
	return cut;
}

static json_t *cut_rows(const json_t *rows, const struct column *columns)
{
	json_t *cut = xpack("[]");

	for (size_t i = 0; i < json_array_size(rows); i++)
		if (json_array_append_new(cut, cut_object(json_array_get(rows, i), columns)) < 0)
			die_no_memory();
	return cut;
}

/* Its first word counts: what is below (a label, the exit of a VM that never ran) may be missing
 * everywhere for now. */
static bool any_row_has(const json_t *rows, const char *field)
{
	cleanup_free char *word = strndup(field, strcspn(field, "."));

	if (!word)
		die_no_memory();
	for (size_t i = 0; i < json_array_size(rows); i++)
		if (json_object_get(json_array_get(rows, i), word))
			return true;
	return json_array_size(rows) == 0;
}

/* The known column of that field gives its kind and title. */
static void take_known(struct column *c, const struct column *known)
{
	for (; known->field; known++)
		if (strcmp(known->field, c->field) == 0)
			*c = *known;
}

static int check_fields(struct ctx *ctx, const json_t *rows, struct column *columns,
                        const struct column *known)
{
	const char *words[MAX_COLUMNS], *member;
	json_t *value;
	size_t n = 0;

	for (const struct column *k = known; k->field && n < MAX_COLUMNS; k++)
		words[n++] = k->field;
	json_object_foreach(json_array_get(rows, 0), member, value)
		if (n < MAX_COLUMNS)
			words[n++] = member;
	for (; columns->field; columns++) {
		const char *near;

		take_known(columns, known);
		if (any_row_has(rows, columns->field))
			continue;
		near = nearest_word(columns->field, words, n);
		if (near)
			error_hint(&ctx->err, "did you mean '%s'?", near);
		return usage_error(ctx, "--fields: no such field '%s'", columns->field);
	}
	return EXIT_DONE;
}

static bool is_ascii(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text >= 0x80)
			return false;
	return true;
}

/* True when a cell needs the locale's character widths. */
static bool add_row(struct libscols_table *t, const json_t *row, const struct column *columns)
{
	struct libscols_line *line = scols_table_new_line(t, NULL);

	bool wide = false;

	if (!line)
		die_no_memory();
	for (size_t i = 0; columns[i].field; i++) {
		cleanup_strbuf struct strbuf s = STRBUF_INIT;

		format_value(&s, json_path(row, columns[i].field), columns[i].kind);
		wide |= s.len && !is_ascii(s.data);
		if (scols_line_refer_data(line, i, s.len ? strbuf_steal(&s) : NULL) < 0)
			die_no_memory();
	}
	return wide;
}

static int print_table(struct ctx *ctx, const json_t *rows, const struct column *columns)
{
	struct libscols_table *t = scols_new_table();
	bool wide = false;

	if (!t)
		die_no_memory();
	scols_table_enable_noheadings(t, ctx->quiet);
	/* Lines are cut at a terminal's width only when a person looks at them. */
	if (!ctx->out_tty)
		scols_table_enable_nowrap(t, 1);
	for (const struct column *c = columns; c->field; c++) {
		int flags = c->kind == COL_NUMBER || c->kind == COL_SIZE || c->kind == COL_PERCENT
		                    ? SCOLS_FL_RIGHT
		            : c->kind == COL_LONG && ctx->out_tty ? SCOLS_FL_TRUNC
		                                                  : 0;

		if (!scols_table_new_column(t, c->title, 0, flags))
			die_no_memory();
	}
	for (size_t i = 0; i < json_array_size(rows); i++)
		wide |= add_row(t, json_array_get(rows, i), columns);
	if (wide) /* measuring in UTF-8 takes a tenth of the time of a long list */
		setlocale(LC_CTYPE, "");
	if (json_array_size(rows))
		(void)scols_print_table(t);
	scols_unref_table(t);
	return EXIT_DONE;
}

static int print_first(const json_t *rows, const struct column *columns)
{
	for (size_t i = 0; i < json_array_size(rows); i++) {
		cleanup_strbuf struct strbuf s = STRBUF_INIT;

		format_value(&s, json_path(json_array_get(rows, i), columns->field), COL_TEXT);
		put_line(s.data);
	}
	return EXIT_DONE;
}

int out_list(struct ctx *ctx, const json_t *result, const json_t *rows,
             const struct column *columns)
{
	const char *fields = args_str(&ctx->args, "fields");
	cleanup_free char *text = fields ? xstrdup(fields) : NULL;
	struct column chosen[MAX_COLUMNS];
	int code;

	if (fields) {
		if (split_fields(text, chosen) == 0)
			return usage_error(ctx, "--fields: names no field");
		code = check_fields(ctx, rows, chosen, columns);
		if (code != EXIT_DONE)
			return code;
		columns = chosen;
	}
	if (ctx->format == FORMAT_JSON) {
		cleanup_json json_t *cut = fields ? cut_rows(rows, columns) : NULL;

		return out_json(ctx, cut ? cut : result);
	}
	if (ctx->quiet && !fields)
		return print_first(rows, columns);
	return print_table(ctx, rows, columns);
}

int out_cut(struct ctx *ctx, const json_t *value, json_t **ret)
{
	const char *fields = args_str(&ctx->args, "fields");
	cleanup_free char *text = fields ? xstrdup(fields) : NULL;
	struct column chosen[MAX_COLUMNS] = { 0 };
	static const struct column none[] = { { 0 } };
	cleanup_json json_t *rows = NULL;
	int code;

	*ret = NULL;
	if (!fields) {
		*ret = json_incref((json_t *)(uintptr_t)value);
		return EXIT_DONE;
	}
	if (split_fields(text, chosen) == 0)
		return usage_error(ctx, "--fields: names no field");
	rows = xpack("[O]", value);
	code = check_fields(ctx, rows, chosen, none);
	if (code == EXIT_DONE)
		*ret = cut_object(value, chosen);
	return code;
}

int out_object(struct ctx *ctx, const json_t *value)
{
	cleanup_json json_t *cut = NULL;
	int code = out_cut(ctx, value, &cut);

	return code == EXIT_DONE ? out_json(ctx, cut) : code;
}

void out_pair_text(const char *title, const char *text)
{
	printf("%15s: ", title);
	put_clean(stdout, text);
	putchar('\n');
}

void out_pair(const char *title, const json_t *value, enum column_kind kind)
{
	cleanup_strbuf struct strbuf s = STRBUF_INIT;

	if (!value || json_is_null(value))
		return;
	format_value(&s, value, kind);
	if (s.len)
		printf("%15s: %s\n", title, s.data);
}
