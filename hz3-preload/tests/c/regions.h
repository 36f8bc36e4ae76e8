/*
 * regions.h: the functions of hz3.h for regions, of the library that is preloaded.
 */
#ifndef REGIONS_H
#define REGIONS_H

#include "../../include/hz3.h"

static __typeof__(&hz3_region_new) region_new;
static __typeof__(&hz3_region_destroy) region_destroy;
static __typeof__(&hz3_region_malloc) region_malloc;
static CHECK_UNUSED __typeof__(&hz3_region_calloc) region_calloc;
static CHECK_UNUSED __typeof__(&hz3_region_aligned_alloc) region_aligned_alloc;
static CHECK_UNUSED __typeof__(&hz3_region_realloc) region_realloc;
static __typeof__(&hz3_region_free) region_free;
static CHECK_UNUSED __typeof__(&hz3_region_stats) region_stats;

static void __attribute__((constructor)) find_functions(void) {
    if (check_any_malloc()) return;
    if (dlsym(RTLD_DEFAULT, "hz3_version") == NULL) return; /* --list */
#define FIND(name) *(void **)&name = check_symbol("hz3_" #name)
    FIND(region_new);
    FIND(region_destroy);
    FIND(region_malloc);
    FIND(region_calloc);
    FIND(region_aligned_alloc);
    FIND(region_realloc);
    FIND(region_free);
    FIND(region_stats);
}

/* Skips where another allocator than hz3 is under test. */
static struct hz3_region *new_region(size_t limit) {
    if (region_new == NULL) check_skip("this allocator has no regions");
    struct hz3_region *region = region_new(limit);
    CHECK(region != NULL);
    return region;
}

#endif
