/*
 * xml.h: a well-formedness check for the small XML documents that malloc_info writes: one root,
 * nested and matching tags, quoted attributes, no stray `<` or `&`. It allocates nothing.
 */
#ifndef XML_H
#define XML_H

#include <ctype.h>
#include <string.h>

#define XML_DEPTH 64

struct xml_name {
    const char *start;
    size_t length;
};

static const char *xml_spaces(const char *at) {
    while (isspace((unsigned char)*at)) at++;
    return at;
}

static const char *xml_read_name(const char *at, struct xml_name *name) {
    name->start = at;
    if (isalpha((unsigned char)*at) || *at == '_')
        while (isalnum((unsigned char)*at) || strchr("_-.:", *at) != NULL) {
            if (*at == '\0') break;
            at++;
        }
    name->length = (size_t)(at - name->start);
    return at;
}

/* Reads `name="value"` pairs up to `>`, `/` or `?`; NULL if one is malformed. */
static const char *xml_attributes(const char *at) {
    for (;;) {
        struct xml_name name;
        const char *next = xml_spaces(at);
        if (*next == '>' || *next == '/' || *next == '?') return next;
        if (next == at) return NULL;
        next = xml_read_name(next, &name);
        if (name.length == 0 || *next != '=') return NULL;
        char quote = next[1];
        if (quote != '"' && quote != '\'') return NULL;
        for (at = next + 2; *at != quote; at++)
            if (*at == '\0' || *at == '<' || *at == '&') return NULL;
        at++;
    }
}

/*
 * NULL if `text` is a well-formed document whose root element is called `root`; otherwise the
 * place where it stops being one.
 */
static const char *xml_fault(const char *text, const char *root) {
    struct xml_name open[XML_DEPTH], name;
    size_t depth = 0, roots = 0;
    const char *at = xml_spaces(text);
    if (strncmp(at, "<?xml", 5) == 0) {
        const char *next = xml_attributes(at + 5);
        if (next == NULL || strncmp(next, "?>", 2) != 0) return at;
        at = next + 2;
    }
    for (; *at != '\0'; at++) {
        if (*at == '&') return at;
        if (*at != '<') {
            if (depth == 0 && !isspace((unsigned char)*at)) return at;
            continue;
        }
        int closing = at[1] == '/';
        const char *next = xml_read_name(at + 1 + closing, &name);
        if (name.length == 0) return at;
        if (closing) {
            next = xml_spaces(next);
            if (*next != '>' || depth == 0 || open[depth - 1].length != name.length ||
                memcmp(open[depth - 1].start, name.start, name.length) != 0)
                return at;
            depth--;
        } else {
            if (depth == 0 && (roots++ > 0 || name.length != strlen(root) ||
                               memcmp(name.start, root, name.length) != 0))
                return at;
            next = xml_attributes(next);
            if (next == NULL || *next == '?') return at;
            if (*next == '/') {
                if (*++next != '>') return at;
            } else {
                if (depth == XML_DEPTH) return at;
                open[depth++] = name;
            }
        }
        at = next;
    }
    return depth == 0 && roots == 1 ? NULL : at;
}

#endif
