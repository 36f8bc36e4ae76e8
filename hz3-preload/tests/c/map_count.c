/*
 * map_count.c: a process that has as many mappings as the kernel lets it have (vm.max_map_count). What the
 * allocator has reserved since its first block serves all sizes then, and nothing is lost once there are fewer
 * mappings again.
 */
#include "check.h"

#include <sys/mman.h>

/* Mappings that can't merge: every second page of a region has other rights than the rest. */
static char *region;
static size_t region_bytes;
/* Further ones, each unlike the one before it. */
static void *singles[256];
static size_t single_count;

/* Takes every mapping that the process may still have. */
static void eat_up_the_mappings(void) {
    size_t page = 4096, pages = 2 * check_most_mappings(4000000) + 16;
    region_bytes = pages * page;
    region = (char *)mmap(NULL, region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(region != MAP_FAILED);
    size_t at = page;
    while (at < region_bytes && mprotect(region + at, page, PROT_READ) == 0) at += 2 * page;
    CHECK_THAT(at < region_bytes && errno == ENOMEM, "the kernel refuses no mapping");
    while (single_count < sizeof singles / sizeof singles[0]) {
        int rights = single_count % 2 == 0 ? PROT_READ : PROT_NONE;
        void *single = mmap(NULL, page, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (single == MAP_FAILED) break;
        singles[single_count++] = single;
    }
    CHECK(single_count < sizeof singles / sizeof singles[0] && errno == ENOMEM);
}

static void give_the_mappings_back(void) {
    CHECK(munmap(region, region_bytes) == 0);
    while (single_count > 0) CHECK(munmap(singles[--single_count], 4096) == 0);
}

/* Takes `count` blocks, verified before they are freed. */
static void take_and_return(size_t size, size_t count) {
    static void *blocks[300000];
    CHECK(count <= sizeof blocks / sizeof blocks[0]);
    size_t filled = size < 4096 ? size : 4096;
    for (size_t i = 0; i < count; i++) {
        errno = 0;
        blocks[i] = malloc(size);
        CHECK_THAT(blocks[i] != NULL, "block %zu of %zu bytes: %s", i, size, strerror(errno));
        check_fill(blocks[i], filled, i);
    }
    for (size_t i = 0; i < count; i++) {
        check_filled(blocks[i], filled, i);
        free(blocks[i]);
    }
}

static void take_every_size(void) {
    const struct {
        size_t size, count;
    } steps[] = {{16, 100000},        {100, 300000},    {1000, 100000},  {10000, 10000}, {40000, 2000},
                 {300000, 300}, {3 * MIB, 40}, {31 * MIB, 3}, {40 * MIB, 3},  {100 * MIB, 2}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) take_and_return(steps[i].size, steps[i].count);
}

static void every_size_is_served_without_a_further_mapping(void) {
    free(malloc(1));
    eat_up_the_mappings();
    take_every_size();
    take_every_size();
    give_the_mappings_back();
    take_every_size();
}

/* The same where the allocator has run for a while. */
static void a_process_that_has_used_every_size_goes_on(void) {
    take_every_size();
    eat_up_the_mappings();
    take_every_size();
    malloc_trim(0);
    take_every_size();
    give_the_mappings_back();
    take_every_size();
}

static void blocks_grow_and_shrink_across_every_size(void) {
    free(malloc(1));
    for (int full = 1; full >= 0; full--) {
        if (full) eat_up_the_mappings();
        size_t size = 100;
        char *block = (char *)malloc(size);
        CHECK(block != NULL);
        check_fill(block, 100, 5);
        while (size < 150 * MIB) {
            size *= 3;
            block = (char *)realloc(block, size);
            CHECK_THAT(block != NULL, "realloc to %zu: %s", size, strerror(errno));
            block[size - 1] = 1;
            check_filled(block, 100, 5);
        }
        while (size > 1000) {
            size /= 2;
            block = (char *)realloc(block, size);
            CHECK_THAT(block != NULL, "realloc to %zu: %s", size, strerror(errno));
            CHECK(malloc_usable_size(block) >= size);
            check_filled(block, 100, 5);
        }
        free(block);
        char *zeroed = (char *)calloc(1, 60 * MIB);
        CHECK(zeroed != NULL);
        check_zeroed(zeroed, 60 * MIB);
        memset(zeroed, 1, 60 * MIB);
        free(zeroed);
        zeroed = (char *)calloc(1, 50 * MIB);
        CHECK(zeroed != NULL);
        check_zeroed(zeroed, 50 * MIB);
        free(zeroed);
        void *aligned = NULL;
        CHECK(posix_memalign(&aligned, 64 * MIB, 40 * MIB) == 0 && check_aligned(aligned, 64 * MIB));
        memset(aligned, 1, 40 * MIB);
        free(aligned);
        if (full) give_the_mappings_back();
    }
}

/* Blocks that were mappings of their own before can be freed when no mapping can be split any more. */
static void blocks_from_before_are_freed_and_their_memory_goes_back(void) {
    enum { BLOCKS = 6 };
    char *blocks[BLOCKS];
    free(malloc(1));
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = (char *)malloc(40 * MIB);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], 1, 40 * MIB);
    }
    eat_up_the_mappings();
    size_t before = check_status("VmRSS:");
    for (int i = 1; i < BLOCKS; i += 2) free(blocks[i]);
    /* What would be kept. */
    malloc_trim(0);
    size_t after = check_status("VmRSS:");
    CHECK_THAT(after + 110 * MIB < before, "%zu bytes resident, after freeing 120 MiB still %zu", before, after);
    for (int i = 0; i < BLOCKS; i += 2) CHECK(blocks[i][0] == 1 && blocks[i][40 * MIB - 1] == 1);
    take_every_size();
    for (int i = 0; i < BLOCKS; i += 2) free(blocks[i]);
    take_every_size();
    give_the_mappings_back();
    take_every_size();
}

CHECK_MAIN(CASE(every_size_is_served_without_a_further_mapping),
           CASE(a_process_that_has_used_every_size_goes_on),
           CASE(blocks_grow_and_shrink_across_every_size),
           CASE(blocks_from_before_are_freed_and_their_memory_goes_back))
