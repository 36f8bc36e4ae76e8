/*
 * region_misuse.c: faults with regions that must stop the process. Each case prints `pointer 0x…`, the pointer that it
 * is about to misuse; to reach the end is to fail.
 */
#include "check.h"

#include "regions.h"

static void *announce(void *pointer) {
    dprintf(STDOUT_FILENO, "pointer %p\n", pointer);
    return check_opaque(pointer);
}

static void *take(struct hz3_region *region, size_t size) {
    void *block = region_malloc(region, size);
    CHECK(block != NULL);
    memset(block, 1, size);
    return block;
}

/* The first of several blocks, announced and freed; its span stays. */
static void *freed(struct hz3_region *region, size_t size) {
    void *block = announce(take(region, size));
    take(region, size);
    free(block);
    return check_opaque(block);
}

static void a_small_block_is_freed_twice(void) { free(freed(new_region(0), 64)); }

static void a_small_block_is_freed_twice_through_its_region(void) {
    struct hz3_region *region = new_region(0);
    region_free(region, freed(region, 64));
}

static void a_large_block_is_freed_twice(void) { free(freed(new_region(0), 200000)); }

static void a_pointer_into_a_small_block_is_freed(void) { free(announce((char *)take(new_region(0), 64) + 16)); }

static void a_block_is_freed_through_no_region(void) { region_free(NULL, announce(malloc(64))); }

static void a_plain_block_is_freed_through_a_region(void) { region_free(new_region(0), announce(malloc(64))); }

static void a_block_is_freed_through_another_region(void) {
    region_free(new_region(0), announce(take(new_region(0), 64)));
}

static void a_large_block_is_freed_through_another_region(void) {
    region_free(new_region(0), announce(take(new_region(0), 200000)));
}

static void a_plain_block_is_resized_in_a_region(void) {
    free(region_realloc(new_region(0), announce(malloc(64)), 100));
}

static void a_freed_block_is_resized(void) { free(realloc(freed(new_region(0), 64), 5000)); }

static void a_destroyed_region_is_asked(void) {
    struct hz3_region *region = new_region(0);
    region_destroy(region);
    region_malloc(announce(region), 64);
}

static void a_region_is_destroyed_twice(void) {
    struct hz3_region *region = new_region(0);
    region_destroy(region);
    region_destroy(announce(region));
}

static void a_small_block_overflows(void) {
    char *block = take(new_region(0), 60);
    block[60]++;
    free(announce(block));
}

static void a_large_block_overflows(void) {
    struct hz3_region *region = new_region(0);
    char *block = take(region, 200000);
    block[200000]++;
    announce(block);
    region_destroy(region);
}

static void a_freed_block_is_written_to(void) {
    struct hz3_region *region = new_region(0);
    char *block = freed(region, 64);
    block[20] = 1;
    region_malloc(region, 64);
}

/* A region keeps the first spans that empty, and few. */
static void a_block_of_a_span_that_is_given_up_is_written_to(void) {
    enum { BLOCKS = 4096 };
    static char *blocks[BLOCKS];
    struct hz3_region *region = new_region(0);
    for (int i = 0; i < BLOCKS; i++) blocks[i] = (char *)region_malloc(region, 1000);
    char *block = announce(blocks[BLOCKS / 2]);
    free(block);
    block[20] = 1;
    for (int i = 0; i < BLOCKS; i++)
        if (i != BLOCKS / 2) free(blocks[i]);
}

CHECK_MAIN(CASE(a_small_block_is_freed_twice),
           CASE(a_small_block_is_freed_twice_through_its_region),
           CASE(a_large_block_is_freed_twice),
           CASE(a_pointer_into_a_small_block_is_freed),
           CASE(a_plain_block_is_freed_through_a_region),
           CASE(a_block_is_freed_through_no_region),
           CASE(a_block_is_freed_through_another_region),
           CASE(a_large_block_is_freed_through_another_region),
           CASE(a_plain_block_is_resized_in_a_region),
           CASE(a_freed_block_is_resized),
           CASE(a_destroyed_region_is_asked),
           CASE(a_region_is_destroyed_twice),
           CASE(a_small_block_overflows),
           CASE(a_large_block_overflows),
           CASE(a_freed_block_is_written_to),
           CASE(a_block_of_a_span_that_is_given_up_is_written_to))
