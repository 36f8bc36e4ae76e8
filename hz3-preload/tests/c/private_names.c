/*
 * private_names.c: glibc's own names of the allocation functions, __libc_malloc and the others, which programs call: they
 * are the same heap as the usual names.
 */
#include "check.h"

#ifndef __GLIBC__
static void blocks_pass_between_private_and_usual_names(void) { check_skip("glibc's names"); }
static void private_names_fail_as_the_usual_ones(void) { check_skip("glibc's names"); }
#else
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), *__libc_valloc(size_t), *__libc_pvalloc(size_t);
extern void __libc_free(void *);

static void *used(void *block, size_t size) {
    CHECK(block != NULL);
    memset(block, 1, size);
    CHECK(malloc_usable_size(block) >= size);
    return block;
}

static void blocks_pass_between_private_and_usual_names(void) {
    for (size_t size = 1; size < 40 * MIB; size = size * 3 + 5) {
        free(used(__libc_malloc(size), size));
        free(used(__libc_calloc(3, size), 3 * size));
        free(used(__libc_realloc(NULL, size), size));
        free(used(__libc_memalign(64, size), size));
        free(used(__libc_valloc(size), size));
        free(used(__libc_pvalloc(size), size));
        free(used(realloc(__libc_malloc(size), size + 100), size + 100));
        free(used(__libc_realloc(malloc(size), size + 100), size + 100));
        __libc_free(used(malloc(size), size));
        __libc_free(used(calloc(3, size), 3 * size));
        __libc_free(used(aligned_alloc(256, size), size));
        __libc_free(NULL);
    }
    int (*posix_memalign_)(void **, size_t, size_t) = (int (*)(void **, size_t, size_t))check_symbol("__posix_memalign");
    void *block = NULL;
    CHECK(posix_memalign_(&block, 4096, 100) == 0 && check_aligned(block, 4096));
    free(used(block, 100));
    CHECK(check_aligned(block = __libc_valloc(10), 4096));
    free(block);
}

static void private_names_fail_as_the_usual_ones(void) {
    errno = 0;
    CHECK(__libc_malloc(check_size(SIZE_MAX)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(__libc_calloc(check_size(SIZE_MAX / 2), 3) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(__libc_memalign(64, check_size(SIZE_MAX / 2)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(__libc_pvalloc(check_size(SIZE_MAX)) == NULL && errno == ENOMEM);
}
#endif

CHECK_MAIN(CASE(blocks_pass_between_private_and_usual_names), CASE(private_names_fail_as_the_usual_ones))
