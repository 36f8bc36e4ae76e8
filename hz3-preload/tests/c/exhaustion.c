/*
 * exhaustion.c: memory that runs out, in a process that has been limited from its start (by
 * RLIMIT_AS or RLIMIT_DATA): NULL and ENOMEM, nothing lost, and memory again once some is freed.
 */
#include "check.h"

#include <malloc.h>
#include <sys/resource.h>

/* A live block: linked to the one taken before, and marked so that an overlap shows. */
struct link {
    struct link *previous;
    uintptr_t mark;
};

struct chain {
    struct link *last;
    size_t count;
};

/* The smaller of the two limits, in bytes. */
static size_t limit_bytes(void) {
    struct rlimit address_space, data;
    CHECK(getrlimit(RLIMIT_AS, &address_space) == 0 && getrlimit(RLIMIT_DATA, &data) == 0);
    rlim_t limit =
        address_space.rlim_cur < data.rlim_cur ? address_space.rlim_cur : data.rlim_cur;
    CHECK_THAT(limit != RLIM_INFINITY, "this program is to be run under RLIMIT_AS or RLIMIT_DATA");
    return limit;
}

static uintptr_t mark_of(const struct link *block, size_t size) {
    return (uintptr_t)block * 31 + size;
}

static void append(struct chain *chain, void *memory, size_t size) {
    struct link *block = (struct link *)memory;
    block->previous = chain->last;
    block->mark = mark_of(block, size);
    chain->last = block;
    chain->count++;
}

/* Takes at most `count` blocks; stops at the first failure, which must say ENOMEM. */
static void fill(struct chain *chain, size_t size, size_t count) {
    while (chain->count < count) {
        errno = 0;
        void *block = malloc(size);
        if (block == NULL) {
            CHECK_THAT(errno == ENOMEM, "malloc(%zu): errno is %d", size, errno);
            return;
        }
        append(chain, block, size);
    }
}

/* Takes blocks until there are no more. The limit bounds it. */
static void fill_up(struct chain *chain, size_t size) {
    fill(chain, size, SIZE_MAX);
    CHECK_THAT(chain->count * size <= limit_bytes(), "%zu blocks of %zu bytes under a limit of %zu",
               chain->count, size, limit_bytes());
}

static void drop(struct chain *chain, size_t size) {
    while (chain->last != NULL) {
        struct link *block = chain->last;
        CHECK_THAT(block->mark == mark_of(block, size), "block %p of %zu bytes was overwritten",
                   (void *)block, size);
        chain->last = block->previous;
        free(block);
    }
    chain->count = 0;
}

/* A quarter of the limit at least must be there for the program. */
static void check_enough(const struct chain *chain, size_t size) {
    CHECK_THAT(chain->count * size >= limit_bytes() / 4,
               "only %zu blocks of %zu bytes under a limit of %zu", chain->count, size,
               limit_bytes());
}

static void run_out_twice(size_t size) {
    struct chain chain = {NULL, 0};
    fill_up(&chain, size);
    size_t first = chain.count;
    check_enough(&chain, size);
    drop(&chain, size);
    fill_up(&chain, size);
    CHECK_THAT(chain.count >= first / 4 * 3, "%zu-byte blocks: first %zu, after free only %zu",
               size, first, chain.count);
    drop(&chain, size);
}

static void small_blocks_run_out_and_come_back(void) {
    const size_t sizes[] = {16, 48, 100, 500, 2000, 10000, 30000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) run_out_twice(sizes[i]);
}

static void large_blocks_run_out_and_come_back(void) {
    const size_t sizes[] = {40000, 100000, 300000, MIB, 3 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) run_out_twice(sizes[i]);
}

static void freed_memory_serves_every_other_size(void) {
    const size_t sizes[] = {64, 4000, 32, 200000, 1000, 20000, MIB, 128};
    size_t smallest = SIZE_MAX;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct chain chain = {NULL, 0};
        fill_up(&chain, sizes[i]);
        if (chain.count * sizes[i] < smallest) smallest = chain.count * sizes[i];
        drop(&chain, sizes[i]);
    }
    CHECK_THAT(smallest >= limit_bytes() / 4, "one size was given only %zu bytes", smallest);
}

/* Takes what is left, from large to small, so that not even a small request can be met. */
static void take_everything(struct chain *chains, const size_t *sizes, size_t count) {
    for (size_t i = 0; i < count; i++) fill(&chains[i], sizes[i], SIZE_MAX);
}

static void every_entry_point_fails_with_enomem_when_nothing_is_left(void) {
    const size_t sizes[] = {MIB, 100000, 10000, 1000, 100, 16};
    enum { SIZES = 6 };
    static char untouched;
    struct chain chains[SIZES] = {{NULL, 0}};
    void *keep = malloc(50000);
    CHECK(keep != NULL);
    check_fill(keep, 50000, 1);
    take_everything(chains, sizes, SIZES);
    for (size_t size = 200000; size <= 20 * MIB; size *= 3) {
        void *block = &untouched;
        errno = 0;
        CHECK(malloc(size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(calloc(2, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(realloc(keep, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(realloc(check_opaque(NULL), size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(reallocarray(keep, 2, size) == NULL && errno == ENOMEM);
        CHECK(posix_memalign(&block, 64, size) == ENOMEM && block == &untouched);
        CHECK(posix_memalign(&block, 2 * MIB, size) == ENOMEM && block == &untouched);
        errno = 0;
        CHECK(aligned_alloc(4096, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(memalign(4096, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(valloc(size) == NULL && errno == ENOMEM);
        check_filled(keep, 50000, 1);
    }
    malloc_trim(0);
    for (size_t i = 0; i < SIZES; i++) drop(&chains[i], sizes[i]);
    keep = realloc(keep, 200000);
    CHECK(keep != NULL);
    check_filled(keep, 50000, 1);
    void *block = calloc(1, MIB);
    CHECK(block != NULL);
    check_zeroed(block, MIB);
    free(block);
    free(keep);
}

/* Fills memory with blocks of `size` bytes, so that nothing much larger is left. */
static struct link **fill_with(size_t size, size_t *count) {
    struct link **blocks = malloc(limit_bytes() / size * sizeof *blocks);
    CHECK(blocks != NULL);
    for (*count = 0; (blocks[*count] = malloc(size)) != NULL; ++*count) {}
    return blocks;
}

static void a_failure_costs_small_blocks_no_cache_and_holds_until_memory_is_freed(void) {
    enum { SIZE = 1000, NEIGHBOURS = 2000, LARGE = 300000 };
    size_t count;
    struct link **blocks = fill_with(SIZE, &count);
    /* Every other one of some: room for small blocks, and none for a large one. */
    size_t thinned = count / 4;
    for (size_t i = 0; i < thinned; i += 2) free(blocks[i]);
    while (malloc(LARGE) != NULL) {}
    int left_alone = 0;
    for (int i = 0; i < 20; i++) {
        void *small = malloc(SIZE);
        CHECK(small != NULL);
        free(small);
        size_t cached = mallinfo2().fsmblks;
        CHECK(check_opaque(malloc(LARGE)) == NULL && errno == ENOMEM);
        left_alone += mallinfo2().fsmblks == cached;
    }
    CHECK_THAT(left_alone >= 10, "the cache stayed in %d of 20 failures", left_alone);
    /* Neighbours come free, the last ones into a cache: the next request is served at once. */
    for (size_t start = count / 2; start + NEIGHBOURS <= count; start += 2 * NEIGHBOURS) {
        for (size_t i = start; i < start + NEIGHBOURS; i++) free(blocks[i]);
        CHECK_THAT(check_opaque(malloc(LARGE)) != NULL, "no block after neighbours were freed");
        while (malloc(LARGE) != NULL) {}
    }
}

/* ---- threads ----------------------------------------------------------------------------- */

#define THREADS 4

static pthread_barrier_t barrier;
static size_t counts[THREADS];

static pthread_t small_thread(void *(*run)(void *), void *argument) {
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 128 * KIB) == 0);
    return check_thread_at(__FILE__, __LINE__, &attributes, run, argument);
}

static void *run_out_together(void *pointer) {
    size_t self = (size_t)(uintptr_t)pointer;
    const size_t sizes[] = {500, 70000};
    for (int round = 0; round < 4; round++) {
        size_t size = sizes[round % 2];
        struct chain chain = {NULL, 0};
        pthread_barrier_wait(&barrier);
        fill_up(&chain, size);
        counts[self] = chain.count;
        pthread_barrier_wait(&barrier);
        size_t total = 0;
        for (int i = 0; i < THREADS; i++) total += counts[i];
        CHECK_THAT(total * size >= limit_bytes() / 4, "round %d: %zu bytes for all threads", round,
                   total * size);
        drop(&chain, size);
        pthread_barrier_wait(&barrier);
        /* What the others freed is free for everyone: a fair share must be to be had. */
        fill(&chain, size, total / THREADS / 2);
        CHECK_THAT(chain.count == total / THREADS / 2, "%zu blocks of %zu after all were freed",
                   chain.count, total / THREADS / 2);
        drop(&chain, size);
    }
    return NULL;
}

static void threads_run_out_together_and_recover(void) {
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = small_thread(run_out_together, (void *)i);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
}

static void *allocate_for_the_first_time(void *unused) {
    (void)unused;
    pthread_barrier_wait(&barrier);
    for (size_t size = 1; size <= MIB; size *= 4) {
        void *block = malloc(size);
        if (block != NULL) memset(block, 1, size);
        CHECK(block != NULL || errno == ENOMEM);
        free(block);
    }
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    void *block = malloc(1000);
    CHECK_THAT(block != NULL, "no memory after everything was freed");
    free(block);
    return NULL;
}

static void a_thread_that_starts_when_nothing_is_left_survives(void) {
    const size_t sizes[] = {MIB, 10000, 100, 16};
    struct chain chains[4] = {{NULL, 0}};
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    pthread_t thread = small_thread(allocate_for_the_first_time, NULL);
    take_everything(chains, sizes, 4);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    for (size_t i = 0; i < 4; i++) drop(&chains[i], sizes[i]);
    pthread_barrier_wait(&barrier);
    check_join(thread);
}

static void a_child_made_when_nothing_is_left_can_free_and_allocate(void) {
    const size_t sizes[] = {MIB, 10000, 100, 16};
    struct chain chains[4] = {{NULL, 0}};
    take_everything(chains, sizes, 4);
    pid_t child = fork();
    CHECK(child >= 0);
    for (size_t i = 0; i < 4; i++) drop(&chains[i], sizes[i]);
    struct chain chain = {NULL, 0};
    fill(&chain, 1000, 5000);
    CHECK(chain.count == 5000);
    drop(&chain, 1000);
    if (child == 0) _exit(0);
    check_child_passed(child);
}

static void *work(void *seed) {
    enum { LIVE = 200 };
    void *blocks[LIVE] = {NULL};
    size_t sizes[LIVE] = {0};
    uint64_t random = (uint64_t)(uintptr_t)seed;
    for (int i = 0; i < 50000; i++) {
        size_t slot = check_random(&random) % LIVE;
        check_filled(blocks[slot], sizes[slot], slot);
        free(blocks[slot]);
        sizes[slot] = 1 + check_random(&random) % (i % 100 == 0 ? 100000 : 2000);
        blocks[slot] = malloc(sizes[slot]);
        CHECK_THAT(blocks[slot] != NULL, "malloc(%zu) failed in ordinary work", sizes[slot]);
        check_fill(blocks[slot], sizes[slot], slot);
    }
    for (size_t slot = 0; slot < LIVE; slot++) free(blocks[slot]);
    return NULL;
}

static void ordinary_work_gets_done(void) {
    pthread_t threads[THREADS];
    limit_bytes();
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = small_thread(work, (void *)(i + 1));
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
#ifdef __GLIBC__ /* the shell may have another C library */
    char text[64] = "";
    FILE *pipe = popen("echo spoken", "r");
    CHECK(pipe != NULL && fgets(text, sizeof text, pipe) != NULL && strcmp(text, "spoken\n") == 0);
    CHECK(pclose(pipe) == 0);
#endif
}

CHECK_MAIN(CASE(ordinary_work_gets_done),
           CASE(small_blocks_run_out_and_come_back),
           CASE(large_blocks_run_out_and_come_back),
           CASE(freed_memory_serves_every_other_size),
           CASE(a_failure_costs_small_blocks_no_cache_and_holds_until_memory_is_freed),
           CASE(every_entry_point_fails_with_enomem_when_nothing_is_left),
           CASE(threads_run_out_together_and_recover),
           CASE(a_thread_that_starts_when_nothing_is_left_survives),
           CASE(a_child_made_when_nothing_is_left_can_free_and_allocate))
