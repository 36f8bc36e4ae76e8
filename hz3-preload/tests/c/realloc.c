/*
 * realloc.c: realloc and reallocarray: contents kept from every size to every other, failure
 * leaves the block alone, zero frees.
 */
#include "check.h"

/* Every size class once up to 32 KiB, and a handful of large sizes. */
static size_t class_sizes(size_t *sizes) {
    const size_t large[] = {40000, 65536, 130000, 262145, MIB, 2 * MIB + 1, 4 * MIB};
    size_t count = 0;
    for (size_t size = 16; size < 128; size += 16) sizes[count++] = size;
    for (size_t power = 128; power < 32 * KIB; power *= 2)
        for (size_t eighth = 0; eighth < 8; eighth++) sizes[count++] = power + eighth * power / 8;
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) sizes[count++] = large[i];
    return count;
}

static void realloc_keeps_the_contents_from_every_size_class_to_every_other(void) {
    size_t sizes[128];
    size_t count = class_sizes(sizes);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            size_t from = sizes[i], to = sizes[j] - j % 3, kept = from < to ? from : to;
            void *block = malloc(from);
            CHECK(block != NULL);
            check_fill(block, from, i * count + j);
            block = realloc(block, to);
            CHECK_THAT(block != NULL, "realloc from %zu to %zu failed", from, to);
            CHECK(check_aligned(block, 16));
            CHECK(malloc_usable_size(block) >= to);
            check_filled(block, kept, i * count + j);
            check_fill(block, to, 1);
            free(block);
        }
    }
}

static void realloc_of_null_is_malloc(void) {
    for (size_t size = 0; size <= MIB; size = size * 2 + 1) {
        void *block = realloc(check_opaque(NULL), size);
        CHECK(block != NULL && check_aligned(block, 16));
        check_fill(block, size, size);
        check_filled(block, size, size);
        free(block);
        block = reallocarray(check_opaque(NULL), size, 2);
        CHECK(block != NULL && malloc_usable_size(block) >= 2 * size);
        free(block);
    }
}

static void realloc_to_zero_frees_and_returns_null(void) {
    size_t before = check_status("VmRSS:");
    for (int round = 0; round < 20000; round++) {
        size_t size = (size_t)1 << (round % 18);
        void *block = malloc(size);
        CHECK(block != NULL);
        memset(block, 1, size);
        errno = 4321;
        CHECK(realloc(block, check_size(0)) == NULL);
        CHECK(errno == 4321);
        block = malloc(size);
        CHECK(block != NULL);
        memset(block, 1, size);
        CHECK(reallocarray(block, round % 2 ? 0 : size, round % 2 ? size : 0) == NULL);
    }
    size_t after = check_status("VmRSS:");
    CHECK_THAT(after < before + 32 * MIB, "resident memory went from %zu to %zu bytes", before,
               after);
}

static void a_failed_realloc_leaves_the_block_alone(void) {
    for (size_t size = 1; size <= 4 * MIB; size = size * 4 + 1) {
        void *block = malloc(size);
        CHECK(block != NULL);
        check_fill(block, size, size);
        const size_t impossible[] = {SIZE_MAX, SIZE_MAX - 4096, (size_t)PTRDIFF_MAX + 1,
                                     PTRDIFF_MAX, (size_t)1 << 47};
        for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
            errno = 0;
            CHECK(realloc(block, check_size(impossible[i])) == NULL);
            CHECK(errno == ENOMEM);
            errno = 0;
            CHECK(realloc(check_opaque(NULL), check_size(impossible[i])) == NULL);
            CHECK(errno == ENOMEM);
            check_filled(block, size, size);
        }
        block = realloc(block, size + 1);
        CHECK(block != NULL);
        check_filled(block, size, size);
        free(block);
    }
}

static void a_block_grown_byte_by_byte_keeps_its_contents(void) {
    unsigned char *block = NULL;
    for (size_t size = 1; size <= 40000; size++) {
        block = (unsigned char *)realloc(block, size);
        CHECK(block != NULL);
        block[size - 1] = (unsigned char)(size * 31);
        if (size % 1000 == 0)
            for (size_t i = 0; i < size; i++) CHECK(block[i] == (unsigned char)((i + 1) * 31));
    }
    for (size_t size = 40000; size > 0; size--) {
        block = (unsigned char *)realloc(block, size);
        CHECK(block != NULL);
        CHECK(block[size - 1] == (unsigned char)(size * 31));
        CHECK(block[size / 2] == (unsigned char)((size / 2 + 1) * 31));
    }
    free(block);
}

static void several_blocks_grown_in_turn_keep_their_contents(void) {
    enum { BLOCKS = 12 };
    void *blocks[BLOCKS] = {NULL};
    size_t sizes[BLOCKS] = {0};
    for (size_t step = 1; step <= 36; step++) {
        for (size_t i = 0; i < BLOCKS; i++) {
            size_t size = sizes[i] + step * step * (i + 1) * 13;
            blocks[i] = realloc(blocks[i], size);
            CHECK(blocks[i] != NULL);
            check_filled(blocks[i], sizes[i], i);
            check_fill(blocks[i], size, i);
            sizes[i] = size;
        }
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        check_filled(blocks[i], sizes[i], i);
        free(blocks[i]);
    }
}

static void a_large_block_that_grows_and_shrinks_keeps_its_contents(void) {
    uint64_t random = check_seed();
    size_t size = MIB;
    void *block = malloc(size);
    CHECK(block != NULL);
    for (int round = 0; round < 60; round++) {
        check_fill(block, size, (uint64_t)round);
        size_t next = 1 + check_random(&random) % (16 * MIB);
        block = realloc(block, next);
        CHECK(block != NULL);
        check_filled(block, size < next ? size : next, (uint64_t)round);
        size = next;
    }
    free(block);
}

static void an_aligned_block_keeps_its_contents_in_realloc(void) {
    for (size_t alignment = 16; alignment <= 4 * MIB; alignment *= 2) {
        for (size_t size = 1; size <= 256 * KIB; size = size * 8 + 3) {
            void *block = NULL;
            CHECK(posix_memalign(&block, alignment, size) == 0);
            check_fill(block, size, alignment);
            size_t next = size % 2 ? size * 2 : size / 2 + 1;
            block = realloc(block, next);
            CHECK(block != NULL && check_aligned(block, 16));
            check_filled(block, size < next ? size : next, alignment);
            check_fill(block, next, 3);
            free(block);
        }
    }
}

static void *grow_and_verify(void *block) {
    block = realloc(block, 9000);
    CHECK(block != NULL);
    check_filled(block, 5000, 11);
    check_fill(block, 9000, 12);
    return block;
}

static void a_block_is_reallocated_by_another_thread(void) {
    for (int round = 0; round < 200; round++) {
        void *block = malloc(5000);
        CHECK(block != NULL);
        check_fill(block, 5000, 11);
        pthread_t thread = check_thread(grow_and_verify, block);
        CHECK(pthread_join(thread, &block) == 0);
        check_filled(block, 9000, 12);
        free(block);
    }
}

CHECK_MAIN(CASE(realloc_keeps_the_contents_from_every_size_class_to_every_other),
           CASE(realloc_of_null_is_malloc),
           CASE(realloc_to_zero_frees_and_returns_null),
           CASE(a_failed_realloc_leaves_the_block_alone),
           CASE(a_block_grown_byte_by_byte_keeps_its_contents),
           CASE(several_blocks_grown_in_turn_keep_their_contents),
           CASE(a_large_block_that_grows_and_shrinks_keeps_its_contents),
           CASE(an_aligned_block_keeps_its_contents_in_realloc),
           CASE(a_block_is_reallocated_by_another_thread))
