/*
 * usable_size.c: malloc_usable_size: never less than what was asked for, all of it the program's
 * to write, kept when the block moves.
 */
#include "check.h"
#include "sizes.h"

static void usable_size_of_null_is_zero(void) {
    errno = 4321;
    CHECK(malloc_usable_size(check_opaque(NULL)) == 0);
    CHECK(errno == 4321);
}

static void every_usable_byte_can_be_written_without_harm_to_the_neighbours(void) {
    static struct sizes sizes;
    static void *blocks[SIZES_CAPACITY][3];
    sizes_up_to(&sizes, MIB);
    for (size_t i = 0; i < sizes.count; i++) {
        for (size_t j = 0; j < 3; j++) {
            void *block = malloc(sizes.of[i]);
            CHECK(block != NULL);
            CHECK(malloc_usable_size(block) >= sizes.of[i]);
            check_fill(block, malloc_usable_size(block), 3 * i + j);
            blocks[i][j] = block;
        }
    }
    for (size_t i = 0; i < sizes.count; i++) {
        for (size_t j = 0; j < 3; j++) {
            check_filled(blocks[i][j], malloc_usable_size(blocks[i][j]), 3 * i + j);
            free(blocks[i][j]);
        }
    }
}

static void every_usable_byte_is_kept_by_realloc(void) {
    static struct sizes sizes;
    sizes_up_to(&sizes, MIB);
    for (size_t i = 0; i < sizes.count; i++) {
        void *block = malloc(sizes.of[i]);
        CHECK(block != NULL);
        size_t usable = malloc_usable_size(block);
        check_fill(block, usable, i);
        /* Nothing may be used of an empty block where what was asked for counts; to resize it to that is to free it. */
        block = realloc(block, usable > 0 ? usable : 1);
        CHECK(block != NULL && malloc_usable_size(block) >= usable);
        check_filled(block, usable, i);
        block = realloc(block, 3 * usable + 1);
        CHECK(block != NULL);
        check_filled(block, usable, i);
        free(block);
    }
}

static void usable_size_covers_every_entry_point(void) {
    for (size_t size = 1; size <= 4 * MIB; size = size * 3 + 1) {
        for (size_t alignment = 16; alignment <= 64 * KIB; alignment *= 4) {
            void *blocks[5] = {calloc(3, size), aligned_alloc(alignment, size),
                               memalign(alignment, size), realloc(malloc(1), size), NULL};
            CHECK(posix_memalign(&blocks[4], alignment, size) == 0);
            for (size_t i = 0; i < 5; i++) {
                CHECK(blocks[i] != NULL);
                CHECK(malloc_usable_size(blocks[i]) >= (i == 0 ? 3 * size : size));
                check_fill(blocks[i], malloc_usable_size(blocks[i]), i);
            }
            for (size_t i = 0; i < 5; i++) {
                check_filled(blocks[i], malloc_usable_size(blocks[i]), i);
                free(blocks[i]);
            }
        }
    }
}

static void small_requests_waste_at_most_an_eighth(void) {
    check_symbol("hz3_version"); /* a promise of hz3's bins, not of every allocator */
    for (size_t size = 128; size <= 32 * KIB; size++) {
        void *block = malloc(size);
        size_t usable = malloc_usable_size(block);
        CHECK_THAT(usable - size <= usable / 8, "%zu bytes occupy %zu", size, usable);
        free(block);
    }
}

CHECK_MAIN(CASE(usable_size_of_null_is_zero),
           CASE(every_usable_byte_can_be_written_without_harm_to_the_neighbours),
           CASE(every_usable_byte_is_kept_by_realloc),
           CASE(usable_size_covers_every_entry_point),
           CASE(small_requests_waste_at_most_an_eighth))
