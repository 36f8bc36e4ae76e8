/*
 * limits.c: the allocator's own limits on memory, set by HZ3_HARD_LIMIT and HZ3_SOFT_LIMIT, by hz3_set_limit, or by the
 * process's control group.
 */
#include "check.h"

#include "../../include/hz3.h"

#define LIMIT (64 * MIB)
#define THREADS 4
#define PLACES 40000

static int (*set_limit)(int, size_t);
static size_t (*fill)(struct hz3_stats *, size_t);

static struct hz3_stats counts(void) {
    struct hz3_stats stats;
    if (fill == NULL) {
        *(void **)&fill = check_symbol("hz3_stats");
        *(void **)&set_limit = check_symbol("hz3_set_limit");
    }
    CHECK(fill(&stats, sizeof stats) == sizeof stats);
    return stats;
}

static void limit(int which, size_t bytes) {
    counts();
    CHECK(set_limit(which, bytes) == 0);
}

/* ---- the hard limit ---------------------------------------------------------------------- */

static void *blocks[THREADS][PLACES];

/* Writes what it gets, until nothing is left. */
static size_t take_until_null(void **taken, size_t bytes) {
    size_t count = 0;
    for (; count < PLACES; count++) {
        errno = 0;
        taken[count] = malloc(bytes);
        if (taken[count] == NULL) break;
        memset(taken[count], 1, bytes);
    }
    CHECK_THAT(count == PLACES || errno == ENOMEM, "errno is %d", errno);
    return count;
}

static void give_back(void **taken, size_t count) {
    while (count > 0) free(taken[--count]);
}

/* Every size, one after another, gets most of it, and no more. */
static void every_size_meets_the_limit_and_comes_back(void) {
    const size_t sizes[] = {2000, 20 * KIB, 90 * KIB, MIB, 5 * MIB, 20 * MIB, 3000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t count = take_until_null(blocks[0], sizes[i]);
        const struct hz3_stats stats = counts();
        CHECK_THAT(stats.hard_limit_bytes == LIMIT && stats.counted_bytes <= LIMIT, "%zu bytes count", stats.counted_bytes);
        CHECK_THAT(count * sizes[i] >= LIMIT * 7 / 10 - sizes[i], "only %zu blocks of %zu", count, sizes[i]);
        CHECK_THAT(count * sizes[i] <= LIMIT, "%zu blocks of %zu", count, sizes[i]);
        CHECK_THAT(check_status("RssAnon:") < LIMIT + 12 * MIB, "%zu bytes resident", check_status("RssAnon:"));
        CHECK(stats.hard_limit_met > 0);
        give_back(blocks[0], count);
    }
}

static void a_block_that_can_t_grow_stays_as_it_is(void) {
    char *block = malloc(30 * MIB);
    CHECK(block != NULL);
    check_fill(block, 30 * MIB, 3);
    const size_t sizes[] = {LIMIT + 1, 100 * MIB, 300 * MIB, GIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        errno = 0;
        CHECK(realloc(block, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(malloc(check_size(sizes[i])) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(calloc(check_size(sizes[i]), 1) == NULL && errno == ENOMEM);
        void *aligned = NULL;
        CHECK(posix_memalign(&aligned, 4 * MIB, sizes[i]) == ENOMEM && aligned == NULL);
    }
    check_filled(block, 30 * MIB, 3);
    free(block);
}

static pthread_barrier_t barrier;

static void *run_out_together(void *index) {
    const size_t self = (size_t)(uintptr_t)index, sizes[] = {700, 9000, 60 * KIB, 2 * MIB};
    for (size_t round = 0; round < 6; round++) {
        pthread_barrier_wait(&barrier);
        size_t count = take_until_null(blocks[self], sizes[(self + round) % THREADS]);
        CHECK_THAT(counts().counted_bytes <= LIMIT, "%zu bytes count", counts().counted_bytes);
        pthread_barrier_wait(&barrier);
        give_back(blocks[self], count);
    }
    return NULL;
}

static void threads_meet_the_limit_together_and_recover(void) {
    pthread_t threads[THREADS];
    counts();
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = check_thread(run_out_together, (void *)i);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    size_t count = take_until_null(blocks[0], MIB);
    CHECK_THAT(count >= 56, "only %zu MiB after all was freed", count);
    give_back(blocks[0], count);
}

/* ---- set while running ------------------------------------------------------------------- */

static void limits_change_while_the_program_runs(void) {
    CHECK(counts().hard_limit_bytes == 0);
    errno = 0;
    CHECK(set_limit(2, MIB) == -1 && errno == EINVAL);
    size_t count = 100;
    for (size_t i = 0; i < count; i++) CHECK((blocks[0][i] = malloc(MIB)) != NULL);
    limit(hz3_limit_hard, 50 * MIB);
    CHECK(malloc(check_size(MIB)) == NULL && malloc(check_size(200 * MIB)) == NULL);
    /* Room for as much as is freed, once less counts than the limit. */
    while (count > 20) free(blocks[0][--count]);
    CHECK((blocks[0][count++] = malloc(20 * MIB)) != NULL);
    CHECK(malloc(check_size(20 * MIB)) == NULL);
    limit(hz3_limit_hard, 0);
    CHECK((blocks[0][count++] = malloc(200 * MIB)) != NULL);
    limit(hz3_limit_soft, 70 * MIB);
    CHECK(counts().soft_limit_bytes == 70 * MIB && counts().hard_limit_bytes == 0);
    limit(hz3_limit_soft, 0);
    CHECK(counts().soft_limit_bytes == 0);
    give_back(blocks[0], count);
}

/* ---- the soft limit: phases that drift in size ------------------------------------------- */

#define LIVE (24 * MIB)
#define PHASES 6

static const size_t least[PHASES] = {40, 1000, 20000, 200000, 90, 6000}, most[PHASES] = {200, 8000, 32000, 900000, 400, 40000};

/* The oldest blocks make room for the next ones, of other sizes in each phase. */
static void *drift(void *index) {
    const size_t places = MIB;
    uint64_t state = (uint64_t)(uintptr_t)index + 1;
    struct place {
        void *block;
        size_t bytes;
    } *ring = calloc(places, sizeof *ring);
    CHECK(ring != NULL);
    size_t head = 0, tail = 0, live = 0;
    for (int phase = 0; phase < PHASES; phase++)
        for (size_t left = 2 * LIVE; left > 0;) {
            size_t bytes = least[phase] + check_random(&state) % (most[phase] - least[phase]);
            while (live + bytes > LIVE || head - tail >= places) {
                live -= ring[tail % places].bytes;
                free(ring[tail++ % places].block);
            }
            void *block = malloc(bytes);
            CHECK(block != NULL);
            memset(block, 1, bytes);
            ring[head++ % places] = (struct place){block, bytes};
            live += bytes;
            left -= bytes < left ? bytes : left;
        }
    while (tail != head) free(ring[tail++ % places].block);
    free(ring);
    return NULL;
}

static void run_phases(void) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = check_thread(drift, (void *)i);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
}

/* 96 MiB of blocks, and 64 of tables, of which a part is written. Without a limit they come to 245 MiB and more. */
static void phases_stay_within_the_soft_limit(void) {
    const struct hz3_stats before = counts();
    run_phases();
    const struct hz3_stats stats = counts();
    CHECK_THAT(stats.soft_limit_bytes > 0, "there is no soft limit");
    CHECK_THAT(stats.soft_limit_met > before.soft_limit_met, "it was not met");
    CHECK_THAT(check_status("VmHWM:") < stats.soft_limit_bytes + stats.soft_limit_bytes / 16 + 16 * MIB,
               "%zu MiB at most, above the limit of %zu", check_status("VmHWM:") / MIB, stats.soft_limit_bytes / MIB);
}

/* In a control group that kills whoever exceeds its limit. */
static void phases_live_in_a_limit_of_the_system_s(void) {
    run_phases();
    const struct hz3_stats stats = counts();
    CHECK_THAT(stats.soft_limit_bytes > 0, "the system's limit is not known");
    CHECK_THAT(stats.soft_limit_met > 0, "it was not met");
}

/* Live blocks that exceed it cost a look now and then. */
/* Who asks for the system's limit follows it: the file LIMIT_FILE says is of the group around the process's. */
static void a_change_of_the_system_s_limit_is_followed(void) {
    CHECK(check_opaque(malloc(40 * MIB)) != NULL);
    for (size_t i = 0; i < 40; i++) CHECK((blocks[0][i] = malloc(MIB)) != NULL);
    CHECK_THAT(counts().soft_limit_bytes == 168 * MIB, "%zu bytes at first", counts().soft_limit_bytes);
    const int file = open(getenv("LIMIT_FILE"), O_WRONLY);
    CHECK(file >= 0 && write(file, "167772160", 9) == 9 && close(file) == 0);
    CHECK_THAT(counts().soft_limit_bytes == 168 * MIB, "nothing grew");
    usleep(1100000);
    for (size_t i = 40; i < 60; i++) CHECK((blocks[0][i] = malloc(MIB)) != NULL);
    CHECK_THAT(counts().soft_limit_bytes == 140 * MIB, "%zu bytes after it was lowered to 160 MiB", counts().soft_limit_bytes);
}

static void blocks_beyond_the_soft_limit_are_served(void) {
    size_t count = 0;
    for (; count < 3000; count++) {
        blocks[0][count] = malloc(90 * KIB);
        CHECK(blocks[0][count] != NULL);
        memset(blocks[0][count], 1, 90 * KIB);
    }
    const struct hz3_stats stats = counts();
    CHECK(stats.counted_bytes > 2 * stats.soft_limit_bytes && stats.soft_limit_met > 0);
    CHECK_THAT(stats.soft_limit_met < 500, "%zu times", stats.soft_limit_met);
    give_back(blocks[0], count);
}

/* Free slots on every page, none of which can go back: looking for some again and again would cost each miss its time. */
static void a_heap_of_scattered_blocks_beyond_the_soft_limit_is_served(void) {
    const size_t count = 6000000;
    void **scattered = (void **)malloc(count * sizeof *scattered);
    CHECK(scattered != NULL);
    for (size_t i = 0; i < count; i++) CHECK((scattered[i] = malloc(16)) != NULL);
    for (size_t i = 0; i < count; i += 2) free(scattered[i]);
    usleep(50000);
    limit(hz3_limit_soft, 100 * MIB);
    const size_t before = counts().soft_limit_met;
    for (size_t i = 0; i < PLACES; i++) CHECK((blocks[0][i] = malloc(3000)) != NULL);
    const size_t met = counts().soft_limit_met - before;
    CHECK_THAT(met < 200, "%zu times", met);
    give_back(blocks[0], PLACES);
    for (size_t i = 1; i < count; i += 2) free(scattered[i]);
    free(scattered);
}

/* At the limit, growth in place is refused without more being mapped, and a block that shrinks makes room. */
static void blocks_at_the_hard_limit_are_resized(void) {
    limit(hz3_limit_hard, 300 * MIB);
    char *block = (char *)malloc(200 * MIB), *last = (char *)malloc(MIB);
    CHECK(block != NULL && last != NULL);
    size_t count = take_until_null(blocks[0], MIB);
    const size_t mapped = check_status("VmSize:");
    for (int i = 0; i < 200; i++) CHECK(realloc(check_opaque(last), 16 * MIB) == NULL);
    CHECK_THAT(check_status("VmSize:") < mapped + 32 * MIB, "%zu MiB more are mapped",
               (check_status("VmSize:") - mapped) / MIB);
    give_back(blocks[0], count);
    malloc_trim(0);
    limit(hz3_limit_hard, 64 * MIB);
    CHECK(check_opaque(malloc(MIB)) == NULL && errno == ENOMEM);
    CHECK((block = (char *)realloc(block, MIB)) != NULL);
    malloc_trim(0);
    CHECK_THAT(counts().counted_bytes < 64 * MIB, "%zu bytes count", counts().counted_bytes);
    free(block);
    CHECK((block = (char *)malloc(20 * MIB)) != NULL);
    free(block);
}

CHECK_MAIN(CASE(every_size_meets_the_limit_and_comes_back),
           CASE(a_block_that_can_t_grow_stays_as_it_is),
           CASE(threads_meet_the_limit_together_and_recover),
           CASE(limits_change_while_the_program_runs),
           CASE(phases_stay_within_the_soft_limit),
           CASE(phases_live_in_a_limit_of_the_system_s),
           CASE(a_change_of_the_system_s_limit_is_followed),
           CASE(blocks_beyond_the_soft_limit_are_served),
           CASE(a_heap_of_scattered_blocks_beyond_the_soft_limit_is_served),
           CASE(blocks_at_the_hard_limit_are_resized))
