/*
 * calloc.c: calloc and reallocarray's arithmetic: overflow is found, zero is zero, whatever the
 * memory held before.
 */
#include "check.h"
#include "sizes.h"

static const struct {
    size_t count, size;
} overflows[] = {
    {SIZE_MAX, 2},
    {2, SIZE_MAX},
    {SIZE_MAX, SIZE_MAX},
    {SIZE_MAX, 1},
    {1, SIZE_MAX},
    {SIZE_MAX / 2 + 1, 2},
    {2, SIZE_MAX / 2 + 1},
    {SIZE_MAX / 3 + 1, 3},
    {(size_t)1 << 32, (size_t)1 << 32},
    {(size_t)1 << 33, (size_t)1 << 31},
    {((size_t)1 << 32) + 1, (size_t)1 << 32},
    {((size_t)1 << 63) + 1, 16},
    {(size_t)PTRDIFF_MAX + 1, 1},
    {1, (size_t)PTRDIFF_MAX + 1},
    {(size_t)PTRDIFF_MAX / 8 + 1, 8},
    {PTRDIFF_MAX, 1},
};
#define OVERFLOWS (sizeof overflows / sizeof overflows[0])

static void calloc_fails_with_enomem_when_the_product_overflows(void) {
    for (size_t i = 0; i < OVERFLOWS; i++) {
        errno = 0;
        void *block = calloc(check_size(overflows[i].count), check_size(overflows[i].size));
        CHECK_THAT(block == NULL && errno == ENOMEM, "calloc(%zu, %zu) gave %p, errno %d",
                   overflows[i].count, overflows[i].size, block, errno);
    }
}

static void reallocarray_fails_with_enomem_when_the_product_overflows(void) {
    void *block = malloc(100);
    check_fill(block, 100, 7);
    for (size_t i = 0; i < OVERFLOWS; i++) {
        size_t count = check_size(overflows[i].count), size = check_size(overflows[i].size);
        errno = 0;
        CHECK_THAT(reallocarray(NULL, count, size) == NULL && errno == ENOMEM,
                   "reallocarray(NULL, %zu, %zu): errno %d", count, size, errno);
        errno = 0;
        CHECK_THAT(reallocarray(block, count, size) == NULL && errno == ENOMEM,
                   "reallocarray(p, %zu, %zu): errno %d", count, size, errno);
        check_filled(block, 100, 7);
    }
    free(block);
}

static void calloc_of_zero_returns_distinct_blocks(void) {
    void *blocks[300];
    const size_t arguments[3][2] = {{0, 0}, {0, SIZE_MAX}, {SIZE_MAX, 0}};
    for (int i = 0; i < 300; i++) {
        const size_t *pair = arguments[i % 3];
        blocks[i] = calloc(check_size(pair[0]), check_size(pair[1]));
        CHECK(blocks[i] != NULL);
        for (int j = 0; j < i; j++) CHECK(blocks[i] != blocks[j]);
    }
    for (int i = 0; i < 300; i++) free(blocks[i]);
}

/* Leaves `count` dirty blocks of `size` bytes behind, every usable byte written, all freed. */
static void leave_dirt(size_t size, int count) {
    void *blocks[64];
    for (int i = 0; i < count; i++) {
        blocks[i] = malloc(size);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], 0xab, malloc_usable_size(blocks[i]));
    }
    for (int i = 0; i < count; i++) free(blocks[i]);
}

static void calloc_is_zero_after_dirty_frees_of_the_same_size(void) {
    static struct sizes sizes;
    sizes_up_to(&sizes, 8 * MIB);
    for (size_t i = 0; i < sizes.count; i++) {
        size_t size = sizes.of[i];
        int count = size < KIB ? 40 : size < 64 * KIB ? 16 : size < MIB ? 4 : 2;
        leave_dirt(size, count);
        void *blocks[64];
        for (int j = 0; j <= count; j++) {
            blocks[j] = calloc(1, size);
            CHECK(blocks[j] != NULL);
            check_zeroed(blocks[j], size);
        }
        /* The dirt that this leaves is what the next size may be cut from. */
        for (int j = 0; j <= count; j++) {
            memset(blocks[j], 0xcd, size);
            free(blocks[j]);
        }
    }
}

static void calloc_is_zero_after_dirty_frees_of_other_sizes(void) {
    enum { COUNT = 48 };
    uint64_t random = check_seed();
    for (int round = 0; round < 400; round++) {
        void *blocks[COUNT];
        size_t sizes[COUNT];
        for (int i = 0; i < COUNT; i++) {
            sizes[i] = check_random_size(&random);
            blocks[i] = calloc(1, sizes[i]);
            CHECK(blocks[i] != NULL);
            check_zeroed(blocks[i], sizes[i]);
            memset(blocks[i], 0xef, malloc_usable_size(blocks[i]));
        }
        for (int i = 0; i < COUNT; i++) free(blocks[i]);
    }
}

static void calloc_is_zero_where_realloc_shrank_a_dirty_block(void) {
    for (size_t size = 64; size <= 8 * MIB; size *= 2) {
        void *block = malloc(size);
        CHECK(block != NULL);
        memset(block, 0x55, size);
        block = realloc(block, size / 4);
        CHECK(block != NULL);
        void *rest[4];
        for (int i = 0; i < 4; i++) {
            rest[i] = calloc(size / 8, 1);
            CHECK(rest[i] != NULL);
            check_zeroed(rest[i], size / 8);
            memset(rest[i], 0x66, size / 8);
        }
        for (int i = 0; i < 4; i++) free(rest[i]);
        free(block);
    }
}

static void calloc_is_zero_after_a_trim(void) {
    for (size_t size = 16; size <= 4 * MIB; size *= 4) {
        leave_dirt(size, 16);
        malloc_trim(0);
        void *block = calloc(1, size);
        CHECK(block != NULL);
        check_zeroed(block, size);
        memset(block, 0x77, size);
        free(block);
    }
}

static void *dirty_every_size(void *unused) {
    (void)unused;
    for (size_t size = 8; size <= 2 * MIB; size = size * 3 / 2) leave_dirt(size, 8);
    return NULL;
}

static void calloc_is_zero_after_dirty_frees_of_threads_that_ended(void) {
    for (int round = 0; round < 8; round++) {
        check_join(check_thread(dirty_every_size, NULL));
        for (size_t size = 8; size <= 2 * MIB; size = size * 3 / 2) {
            void *block = calloc(size, 1);
            CHECK(block != NULL);
            check_zeroed(block, size);
            memset(block, 0x88, size);
            free(block);
        }
    }
}

static void calloc_splits_its_product_in_any_way(void) {
    for (size_t count = 1; count <= 4096; count = count * 5 / 2 + 1) {
        for (size_t size = 1; size <= 4096; size = size * 7 / 3 + 1) {
            unsigned char *block = (unsigned char *)calloc(count, size);
            CHECK(block != NULL && check_aligned(block, 16));
            CHECK(malloc_usable_size(block) >= count * size);
            check_zeroed(block, count * size);
            memset(block, 0x99, count * size);
            free(block);
        }
    }
}

CHECK_MAIN(CASE(calloc_fails_with_enomem_when_the_product_overflows),
           CASE(reallocarray_fails_with_enomem_when_the_product_overflows),
           CASE(calloc_of_zero_returns_distinct_blocks),
           CASE(calloc_is_zero_after_dirty_frees_of_the_same_size),
           CASE(calloc_is_zero_after_dirty_frees_of_other_sizes),
           CASE(calloc_is_zero_where_realloc_shrank_a_dirty_block),
           CASE(calloc_is_zero_after_a_trim),
           CASE(calloc_is_zero_after_dirty_frees_of_threads_that_ended),
           CASE(calloc_splits_its_product_in_any_way))
