/*
 * ifunc.c: the first blocks come from the resolver of an IFUNC symbol, which the loader calls while thread-local words have
 * no values yet. The main program's resolvers run last, when the libraries are ready.
 */
#include "check.h"

#define COUNT 300

static void *first[COUNT];

static size_t size_of(size_t index) { return index % 30 == 0 ? index * 20000 + 1 : index * 17 + 1; }

static int chosen(void) { return 7; }

static int (*resolve(void))(void) {
    for (size_t i = 0; i < COUNT; i++) {
        first[i] = malloc(size_of(i));
        if (first[i] == NULL) return NULL;
        check_fill(first[i], size_of(i), i);
        if (i % 3 == 0) {
            free(first[i]);
            first[i] = calloc(1, size_of(i));
        }
    }
    return chosen;
}

int call_me(void) __attribute__((ifunc("resolve")));

static void *allocate(void *count) {
    for (size_t i = 0; i < (size_t)count; i++) free(check_opaque(malloc(i)));
    return NULL;
}

static void blocks_of_a_resolver_are_as_others(void) {
    CHECK(call_me() == 7);
    for (size_t i = 0; i < COUNT; i++) {
        CHECK(malloc_usable_size(first[i]) >= size_of(i));
        if (i % 3 == 0) check_zeroed(first[i], size_of(i));
        else check_filled(first[i], size_of(i), i);
        free(first[i]);
    }
    allocate((void *)10000);
    check_join(check_thread(allocate, (void *)10000));
    pid_t child = fork();
    if (child == 0) {
        allocate((void *)1000);
        _exit(0);
    }
    check_child_passed(child);
}

CHECK_MAIN(CASE(blocks_of_a_resolver_are_as_others))
