/*
 * names.c: HZ3_NAME_MAPS, by a prctl of the program's own that notes the names. Not every kernel keeps them.
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define SET_VMA 0x53564d41
#define MOST 100000

static struct {
    uintptr_t start, end;
    const char *name;
} named[MOST];
static size_t count;

int prctl(int option, ...) {
    unsigned long a[4];
    va_list list;
    va_start(list, option);
    for (int i = 0; i < 4; i++) a[i] = va_arg(list, unsigned long);
    va_end(list);
    if (option == SET_VMA && count < MOST) {
        named[count].start = a[1];
        named[count].end = a[1] + a[2];
        named[count++].name = (const char *)a[3];
    }
    return (int)syscall(SYS_prctl, option, a[0], a[1], a[2], a[3]);
}

/* The name of what is at `address`, the last one that it got. */
static const char *name_of(const void *address) {
    for (size_t i = count; i-- > 0;)
        if ((uintptr_t)address >= named[i].start && (uintptr_t)address < named[i].end) return named[i].name;
    return "none";
}

static size_t count_of(const char *name) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) found += strcmp(named[i].name, name) == 0;
    return found;
}

static void work(void (*visit)(const void *, size_t)) {
    static const size_t sizes[] = {16, 100, 3000, 30000, 300000, 5 * MIB, 200 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t left = 20; left > 0; left--) {
            char *block = (char *)malloc(sizes[i]);
            CHECK(block != NULL);
            visit(block, sizes[i]);
            if (left % 2 || sizes[i] > 100 * MIB) free(block);
        }
    }
}

static void is_named(const void *block, size_t size) {
    const char *name = name_of(block), *last = name_of((const char *)block + size - 1);
    CHECK_THAT(strcmp(name, last) == 0, "%s and %s", name, last);
    CHECK_THAT(strcmp(name, size > 128 * MIB ? "hz3: block" : "hz3: arena") == 0, "%zu bytes: %s", size, name);
}

static void every_mapping_has_its_name(void) {
    work(is_named);
    CHECK(count_of("hz3: arena") > 0 && count_of("hz3: tags") > 0 && count_of("hz3: tables") > 0);
    unsigned char is_present[1];
    for (size_t i = 0; i < count; i++) {
        CHECK_THAT(named[i].start % 4096 == 0 && named[i].end % 4096 == 0, "%s", named[i].name);
        CHECK_THAT(strcmp(named[i].name, "hz3: block") == 0 || mincore((void *)named[i].start, 1, is_present) == 0,
                   "%s is not mapped", named[i].name);
    }
    /* Where the kernel keeps names, it shows them. */
    if (prctl(SET_VMA, 0, named[0].start, 4096UL, named[0].name) != 0) return;
    char line[300];
    size_t shown = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) shown += strstr(line, "[anon:hz3: arena]") != NULL;
    CHECK(shown > 0);
}

static void nothing(const void *block, size_t size) { (void)block, (void)size; }

static void no_name_is_given(void) {
    work(nothing);
    CHECK_THAT(count == 0, "%zu names", count);
}

CHECK_MAIN(CASE(every_mapping_has_its_name), CASE(no_name_is_given))
