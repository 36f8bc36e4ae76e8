/*
 * hz3.h: what hz3 offers beyond stdlib.h and malloc.h. Link with libhakozuna_hz3_scale or _fast; see docs/c.md.
 */
#ifndef HZ3_H
#define HZ3_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Counts of the whole process. Bytes, but for those that say otherwise. Later versions add fields at the end and
 * neither move nor remove one.
 */
struct hz3_stats {
    size_t reserved_bytes;   /* addresses of arenas and kept mappings */
    size_t mapped_bytes;     /* address space that the allocator can use: committed + direct + unreturned + metadata */
    size_t metadata_bytes;   /* of it, the allocator's own tables */
    size_t committed_bytes;  /* of it, what is mapped */
    size_t live_bytes;       /* blocks that the program holds, each with all of its slot or pages */
    size_t small_live_bytes; /* of them, small blocks */
    size_t large_bytes;      /* of them, large blocks in arenas, and regions' spans */
    size_t direct_bytes;     /* of them, blocks that are mappings of their own */
    size_t direct_blocks;    /* number of these mappings */
    size_t magazine_bytes;   /* free slots in threads' magazines */
    size_t stash_bytes;      /* free slots in threads' remote stashes, or waiting for others */
    size_t depot_bytes;      /* free slots that threads share */
    size_t span_free_bytes;  /* free slots in spans */
    size_t span_waste_bytes; /* what spans hold beyond their last slot */
    size_t span_purged_bytes; /* of span_free_bytes and span_waste_bytes: pages that hold no memory */
    size_t dirty_bytes;      /* free runs that may hold memory */
    size_t clean_bytes;      /* free runs that hold none */
    size_t purging_bytes;    /* free runs being given back at this moment */
    size_t small_span_bytes; /* pages of small spans */
    size_t small_out_bytes;  /* slots that are live, in a magazine, in a stash or in a depot */
    size_t purged_bytes;     /* memory given back to the system so far */
    size_t heaps;            /* number of heaps ever made */
    size_t refills;          /* number of refills from the own shard's depots */
    size_t steals;           /* number of refills from other shards */
    size_t carves;           /* number of refills from spans */
    size_t spills;           /* number of magazines handed to depots */
    size_t homeward_slots;   /* number of slots that went home */
    size_t unreturned_bytes; /* mappings that are free and that the system did not take back; it is asked again */
    size_t quarantine_bytes; /* free slots that the hardened lane keeps out of reuse for a while */
    size_t held_bytes;       /* free runs that it keeps out of reuse */
    size_t refused_guards;   /* number of guard pages that the system refused to make or to remove */
    size_t counted_bytes;    /* what counts for the limits: blocks, and free memory that has not gone back */
    size_t soft_limit_bytes; /* 0 where there is none */
    size_t hard_limit_bytes; /* 0 where there is none */
    size_t soft_limit_met;   /* how often growth met the soft limit */
    size_t hard_limit_met;   /* how often the hard limit refused growth */
    size_t regions;          /* number of regions */
    size_t region_bytes;     /* of large_bytes and direct_bytes: pages of regions, without guards */
    size_t region_live_bytes; /* of it, blocks, each with all of its slot or pages */
    size_t region_live_blocks; /* number of these blocks */
};

/* "hz3 VERSION LANE", a static string. */
const char *hz3_version(void);

/*
 * Fills at most the first `size` bytes of `*out`, whole fields only, and returns the bytes that the library knows: a
 * caller built against a newer header than the library's finds the fields from there on untouched. With a size of 0,
 * `out` may be null. Exact while no thread allocates or frees.
 */
size_t hz3_stats(struct hz3_stats *out, size_t size);

/* malloc_trim(3): gives free memory back to the system; 1 where some went back, else 0. */
int hz3_trim(void);

/* The limits of hz3_set_limit. */
enum hz3_limit {
    hz3_limit_soft = 0, /* growth beyond it first gives all free memory back, in steps of about a millisecond */
    hz3_limit_hard = 1  /* growth beyond it fails with ENOMEM, after all free memory within reach has gone back */
};

/*
 * Sets a limit on the process's memory of hz3 in bytes from now on, in the place of HZ3_SOFT_LIMIT or HZ3_HARD_LIMIT; 0:
 * none. What exceeds it already stays. Blocks count, each with all of its slot or pages, and free memory that has not
 * gone back; the allocator's own tables do not. 0, or -1 and errno: EINVAL where there is no such limit.
 */
int hz3_set_limit(int which, size_t bytes);

/* Writes the table of malloc_stats(3) to a descriptor. 0, or -1 and errno, as write(2) sets it. */
int hz3_dump(int fd);

/*
 * Writes the heap profile to the file `path`, or, where that is null, to the one that HZ3_PROFILE names. 0, or -1 and
 * errno: EINVAL where there is no profile, else what the system says.
 */
int hz3_profile_dump(const char *path);

/*
 * Regions: blocks in memory of their own, within a limit, that go all at once. Any thread may use one at any time, but for
 * hz3_region_destroy. free, realloc and malloc_usable_size take a region's blocks too; realloc leaves them there.
 */
struct hz3_region;

/* Counts of a region, or of all. Bytes, but for those that say otherwise. Later versions add fields at the end. */
struct hz3_region_stats {
    size_t limit_bytes; /* the limit, in whole pages; 0 for none. Of all regions: the sum */
    size_t held_bytes;  /* what counts against it: pages of blocks, and of what is free between them */
    size_t peak_bytes;  /* the most of that so far */
    size_t live_bytes;  /* blocks that the program holds, each with all of its slot or pages */
    size_t live_blocks; /* their number */
    size_t refused;     /* how often the limit refused pages; a realloc may ask several times */
    size_t regions;     /* number of regions counted */
};

/*
 * A region that never holds more than `limit` bytes, in whole pages; 0 for no limit. A large block counts as long as it was
 * requested; its mapping may be an eighth longer. Null and errno: EINVAL where that is no page, else ENOMEM.
 */
struct hz3_region *hz3_region_new(size_t limit);

/* Ends a region and frees all its blocks, which nobody uses any more. Null does nothing. */
void hz3_region_destroy(struct hz3_region *region);

/* As the functions without `_region`. Null and ENOMEM beyond the limit, too; null and EINVAL for a null region. */
void *hz3_region_malloc(struct hz3_region *region, size_t size);
void *hz3_region_calloc(struct hz3_region *region, size_t count, size_t size);
void *hz3_region_aligned_alloc(struct hz3_region *region, size_t alignment, size_t size);

/* As realloc and free, of the region's own blocks; any other pointer than null stops the process. */
void *hz3_region_realloc(struct hz3_region *region, void *block, size_t size);
void hz3_region_free(struct hz3_region *region, void *block);

/* As hz3_stats, of a region or, for null, of all of them. */
size_t hz3_region_stats(const struct hz3_region *region, struct hz3_region_stats *out, size_t size);

#ifdef __cplusplus
}
#endif

#endif
