/*
 * regions.c: blocks of regions: contents, limits, threads, forks, and what is left of a region.
 */
#include "check.h"

#include <sys/mman.h>

#include "regions.h"

enum { PAGE = 4096 };

static struct hz3_region_stats stats_of(struct hz3_region *region) {
    struct hz3_region_stats stats;
    CHECK(region_stats(region, &stats, sizeof stats) == sizeof stats);
    return stats;
}

static void blocks_of_every_size_come_and_go(void) {
    struct hz3_region *region = new_region(0);
    uint64_t random = check_seed();
    enum { BLOCKS = 400 };
    struct { unsigned char *start; size_t size; uint64_t seed; } blocks[BLOCKS] = {0};
    for (int step = 0; step < 20000; step++) {
        size_t i = check_random(&random) % BLOCKS, size = check_random_size(&random);
        uint64_t dice = check_random(&random);
        if (blocks[i].start == NULL) {
            size_t alignment = (size_t)16 << dice % 9;
            blocks[i].start = dice % 3 == 0   ? region_malloc(region, size)
                              : dice % 3 == 1 ? region_calloc(region, 1, size)
                                              : region_aligned_alloc(region, alignment, size);
            CHECK(blocks[i].start != NULL);
            if (dice % 3 == 1) check_zeroed(blocks[i].start, size);
            CHECK(check_aligned(blocks[i].start, dice % 3 == 2 ? alignment : 16));
        } else {
            check_filled(blocks[i].start, blocks[i].size, blocks[i].seed);
            if (dice % 4 == 0) {
                unsigned char *moved = dice % 8 == 0 ? realloc(blocks[i].start, size)
                                                     : region_realloc(region, blocks[i].start, size);
                CHECK(moved != NULL);
                check_filled(moved, size < blocks[i].size ? size & ~(size_t)7 : blocks[i].size & ~(size_t)7,
                             blocks[i].seed);
                blocks[i].start = moved;
            } else {
                if (dice % 8 < 4) free(blocks[i].start);
                else region_free(region, blocks[i].start);
                blocks[i].start = NULL;
                continue;
            }
        }
        CHECK(malloc_usable_size(blocks[i].start) >= size);
        blocks[i].size = size;
        blocks[i].seed = check_random(&random);
        check_fill(blocks[i].start, size, blocks[i].seed);
    }
    size_t live = 0;
    for (int i = 0; i < BLOCKS; i++) live += blocks[i].start != NULL;
    struct hz3_region_stats stats = stats_of(region);
    CHECK(stats.live_blocks == live && stats.regions == 1 && stats.limit_bytes == 0 && stats.refused == 0);
    CHECK(stats.live_bytes <= stats.held_bytes && stats.held_bytes <= stats.peak_bytes);
    CHECK(stats_of(NULL).live_blocks == live);
    region_destroy(region);
    CHECK(stats_of(NULL).regions == 0 && stats_of(NULL).held_bytes == 0);
}

static void what_is_asked_for_wrongly_is_refused(void) {
    struct hz3_region *region = new_region(PAGE);
    errno = 0;
    CHECK(region_new(PAGE - 1) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(region_malloc(NULL, 16) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(region_calloc(NULL, 1, 16) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(region_realloc(NULL, NULL, 16) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(region_aligned_alloc(region, 48, 16) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(region_calloc(region, SIZE_MAX / 2, 3) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(region_malloc(region, check_size(SIZE_MAX)) == NULL && errno == ENOMEM);
    region_free(region, NULL);
    region_destroy(NULL);
    errno = 7;
    void *block = region_realloc(region, NULL, 100);
    CHECK(block != NULL && region_realloc(region, block, 0) == NULL && stats_of(region).live_blocks == 0);
    block = region_malloc(region, 0);
    CHECK(block != NULL && errno == 7);
    free(block);
    struct hz3_region_stats stats;
    memset(&stats, 0x5a, sizeof stats);
    CHECK(region_stats(region, &stats, sizeof(size_t) + 3) == sizeof stats);
    CHECK(stats.limit_bytes == PAGE && (stats.held_bytes & 0xff) == 0x5a);
    CHECK(region_stats(region, NULL, 0) == sizeof stats);
    region_destroy(region);
}

static void a_limit_is_met_and_left_again(void) {
    enum { LIMIT = 1 << 20 };
    struct hz3_region *region = new_region(LIMIT), *other = new_region(0);
    static void *blocks[LIMIT / 16];
    size_t sizes[] = {40, 1000, 4000, 60000, 300000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t count = 0;
        errno = 0;
        while ((blocks[count] = region_malloc(region, sizes[s])) != NULL) memset(blocks[count++], 1, sizes[s]);
        CHECK(errno == ENOMEM && stats_of(region).refused > 0);
        CHECK(stats_of(region).peak_bytes <= LIMIT);
        CHECK_THAT(count * sizes[s] >= LIMIT / 4 * 3, "%zu blocks of %zu", count, sizes[s]);
        /* Others are not concerned. */
        void *block = region_malloc(other, sizes[s]), *plain = malloc(sizes[s]);
        CHECK(block != NULL && plain != NULL);
        free(plain);
        /* What is too much leaves the block alone. */
        CHECK(region_realloc(region, blocks[0], LIMIT + 1) == NULL && realloc(blocks[0], LIMIT + 1) == NULL);
        CHECK(*(char *)blocks[0] == 1);
        for (size_t i = 0; i < count; i += 3) {
            region_free(region, blocks[i]);
            blocks[i] = region_malloc(region, sizes[s]);
            CHECK(blocks[i] != NULL);
        }
        while (count > 0) free(blocks[--count]);
        CHECK(stats_of(region).live_bytes == 0);
        CHECK((block = region_malloc(region, LIMIT)) != NULL);
        CHECK(stats_of(region).held_bytes == LIMIT && region_malloc(region, 1) == NULL);
        region_free(region, block);
    }
    region_destroy(region);
    region_destroy(other);
}

/* ---- threads ----------------------------------------------------------------------------- */

enum { THREADS = 4, SHARED_LIMIT = 2 << 20, SLOTS = 256 };

static struct hz3_region *shared;
static void *slots[SLOTS];
static volatile int stopped;
static pthread_barrier_t barrier;

static void *fill_to_the_limit(void *unused) {
    (void)unused;
    for (int round = 0; round < 20; round++) {
        size_t size = (size_t)64 << round % 5;
        pthread_barrier_wait(&barrier);
        void *chain = NULL, *block;
        while ((block = region_malloc(shared, size)) != NULL) {
            *(void **)block = chain;
            chain = block;
        }
        CHECK(errno == ENOMEM);
        pthread_barrier_wait(&barrier);
        CHECK(stats_of(shared).held_bytes <= SHARED_LIMIT);
        CHECK(stats_of(shared).held_bytes > SHARED_LIMIT / 4 * 3);
        pthread_barrier_wait(&barrier);
        while (chain != NULL) {
            block = chain;
            chain = *(void **)chain;
            free(block);
        }
    }
    return NULL;
}

static void threads_fill_a_region_to_its_limit(void) {
    shared = new_region(SHARED_LIMIT);
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = check_thread(fill_to_the_limit, NULL);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    struct hz3_region_stats stats = stats_of(shared);
    CHECK(stats.live_blocks == 0 && stats.peak_bytes <= SHARED_LIMIT);
    region_destroy(shared);
}

static void *exchange_blocks(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    while (!stopped) {
        size_t size = check_random_size(&random) % 20000;
        unsigned char *block = region_malloc(shared, size);
        if (block != NULL) memset(block, 1, size);
        free(__atomic_exchange_n(&slots[check_random(&random) % SLOTS], block, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

/* What a child does with a region that threads of its parent were using. */
static void use_the_inherited_region(void) {
    for (int i = 0; i < SLOTS; i++) region_free(shared, __atomic_exchange_n(&slots[i], NULL, __ATOMIC_ACQ_REL));
    /* A block or two were in the hands of threads that are not here. */
    struct hz3_region_stats stats = stats_of(shared);
    CHECK(stats.live_blocks <= THREADS * 2);
    void *chain = NULL, *block;
    while ((block = region_malloc(shared, 1000)) != NULL) {
        *(void **)block = chain;
        chain = block;
    }
    stats = stats_of(shared);
    CHECK(stats.held_bytes <= SHARED_LIMIT && stats.live_bytes > SHARED_LIMIT / 2);
    region_destroy(shared);
    CHECK(stats_of(NULL).held_bytes == 0);
    region_destroy(new_region(PAGE));
}

static void children_inherit_a_busy_region(void) {
    shared = new_region(SHARED_LIMIT);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = check_thread(exchange_blocks, (void *)(i + 1));
    for (int round = 0; round < 40; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            use_the_inherited_region();
            _exit(0);
        }
        check_child_passed(child);
    }
    stopped = 1;
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    region_destroy(shared);
    CHECK(stats_of(NULL).held_bytes == 0);
}

/* ---- what is left ------------------------------------------------------------------------ */

static void a_hundred_thousand_regions_leave_nothing(void) {
    size_t before = 0;
    for (int i = 0; i < 100000; i++) {
        if (i == 10000) before = check_status("VmRSS:");
        struct hz3_region *region = new_region(i % 2 ? MIB : 0);
        for (int block = 0; block < 4; block++) {
            char *start = region_malloc(region, 40 + (size_t)(i + block) % 900);
            CHECK(start != NULL);
            *start = 1;
        }
        if (i % 16 == 0) CHECK(region_malloc(region, 100000) != NULL);
        region_destroy(region);
    }
    size_t after = check_status("VmRSS:");
    CHECK_THAT(after <= before + 4 * MIB, "%zu KiB, then %zu KiB", before / KIB, after / KIB);
}

static void ten_thousand_empty_regions_take_little(void) {
    enum { REGIONS = 10000 };
    static struct hz3_region *regions[REGIONS];
    region_destroy(new_region(0));
    size_t before = check_status("VmRSS:");
    for (int i = 0; i < REGIONS; i++) regions[i] = new_region(MIB);
    size_t each = (check_status("VmRSS:") - before) / REGIONS;
    CHECK_THAT(each <= KIB, "%zu bytes for an empty region", each);
    for (int i = 0; i < REGIONS; i++) CHECK(region_malloc(regions[i], 100) != NULL);
    struct hz3_region_stats stats = stats_of(NULL);
    CHECK(stats.regions == REGIONS && stats.limit_bytes == REGIONS * MIB && stats.held_bytes == (size_t)REGIONS * PAGE);
    for (int i = 0; i < REGIONS; i++) region_destroy(regions[i]);
    CHECK(stats_of(NULL).regions == 0);
}

/* The value of the row `name` in a report; `before` is what stands between name and value. */
static size_t row(const char *report, const char *before, const char *name, const char *between) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%s%s%s", before, name, between);
    const char *at = strstr(report, wanted);
    CHECK_THAT(at != NULL, "no row %s in %.200s", name, report);
    return strtoull(at + strlen(wanted), NULL, 10);
}

/* What malloc_info, malloc_stats and hz3_stats say of regions is what hz3_region_stats says of all of them. */
static void check_rows(void) {
    static char xml[32768], table[32768];
    struct hz3_region_stats all = stats_of(NULL);
    FILE *stream = fmemopen(xml, sizeof xml, "w");
    CHECK(stream != NULL && malloc_info(0, stream) == 0 && fclose(stream) == 0);
    int file = memfd_create("table", MFD_CLOEXEC), saved = dup(STDERR_FILENO);
    CHECK(file >= 0 && saved >= 0 && dup2(file, STDERR_FILENO) == STDERR_FILENO);
    malloc_stats();
    CHECK(dup2(saved, STDERR_FILENO) == STDERR_FILENO && close(saved) == 0);
    ssize_t length = pread(file, table, sizeof table - 1, 0);
    CHECK(length > 0 && close(file) == 0);
    table[length] = '\0';
    struct hz3_stats counts;
    __typeof__(&hz3_stats) take = (__typeof__(&hz3_stats))check_symbol("hz3_stats");
    CHECK(take(&counts, sizeof counts) == sizeof counts);
    const struct { const char *name; size_t expected, counted; } rows[] = {
        {"regions", all.regions, counts.regions},
        {"region_bytes", all.held_bytes, counts.region_bytes},
        {"region_live_bytes", all.live_bytes, counts.region_live_bytes},
        {"region_live_blocks", all.live_blocks, counts.region_live_blocks},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t in_xml = row(xml, "name=\"", rows[i].name, "\" value=\"");
        size_t in_table = row(table, "\n", rows[i].name, " ");
        CHECK_THAT(in_xml == rows[i].expected && in_table == in_xml && rows[i].counted == in_xml,
                   "%s: %zu, in malloc_info %zu, in malloc_stats %zu, in hz3_stats %zu", rows[i].name,
                   rows[i].expected, in_xml, in_table, rows[i].counted);
    }
    CHECK(counts.region_bytes <= counts.large_bytes + counts.direct_bytes);
}

static void all_statistics_have_rows_of_regions(void) {
    struct hz3_region *few = new_region(0), *large = new_region(0);
    check_rows();
    for (int i = 0; i < 1000; i++) CHECK(region_malloc(few, 100) != NULL);
    CHECK(region_malloc(large, 300 * KIB) != NULL && region_malloc(large, 200 * MIB) != NULL);
    CHECK(stats_of(NULL).regions == 2 && stats_of(NULL).live_bytes > 200 * MIB);
    check_rows();
    region_destroy(few);
    region_destroy(large);
    CHECK(stats_of(NULL).regions == 0);
    check_rows();
}

static void memory_of_a_region_goes_back(void) {
    struct hz3_region *region = new_region(0);
    for (size_t size = 16; size < 30000; size += size / 2) free(region_malloc(region, size));
    CHECK(stats_of(region).held_bytes > 0 && stats_of(region).held_bytes <= 32 * KIB);
    malloc_trim(0);
    CHECK(stats_of(region).held_bytes == 0);
    void *blocks[200];
    for (int i = 0; i < 20000; i++) memset(region_malloc(region, 4000), 1, 4000);
    for (int i = 0; i < 200; i++) CHECK((blocks[i] = region_malloc(region, 200000)) != NULL);
    for (int i = 0; i < 200; i++) memset(blocks[i], 1, 200000);
    size_t held = check_status("VmRSS:");
    region_destroy(region);
    malloc_trim(0);
    size_t left = check_status("VmRSS:");
    CHECK_THAT(left + 100 * MIB < held, "%zu KiB, then %zu KiB", held / KIB, left / KIB);
}

CHECK_MAIN(CASE(blocks_of_every_size_come_and_go),
           CASE(what_is_asked_for_wrongly_is_refused),
           CASE(a_limit_is_met_and_left_again),
           CASE(threads_fill_a_region_to_its_limit),
           CASE(children_inherit_a_busy_region),
           CASE(a_hundred_thousand_regions_leave_nothing),
           CASE(ten_thousand_empty_regions_take_little),
           CASE(all_statistics_have_rows_of_regions),
           CASE(memory_of_a_region_goes_back))
