/* early.c: the first block is taken in .preinit_array, before the C library has begun. */
#include "check.h"

static void *early;

static void take(int count, char **arguments, char **variables) {
    (void)count, (void)arguments, (void)variables;
    early = malloc(100);
}

/* musl knows no such section. */
__attribute__((section(".preinit_array"), used)) static void (*first)(int, char **, char **) = take;

static void a_block_from_before_is_freed(void) {
#ifdef __GLIBC__
    CHECK(early != NULL);
#endif
    if (early == NULL) return;
    memset(early, 1, 100);
    free(early);
    free(malloc(100));
}

CHECK_MAIN(CASE(a_block_from_before_is_freed))
