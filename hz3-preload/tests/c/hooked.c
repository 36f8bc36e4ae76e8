/* Programs whose calls to the kernel pass through a library that allocates in each: plugin/hooks.c, preloaded too. */
#include "check.h"
#include "churn.h"

static void release_of_hooks(void) {
    void (*release)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "hooks_release_all");
    CHECK_THAT(release != NULL, "the hooks are not preloaded");
    release();
}

/* mmap and mprotect serve every growth, madvise every purge, clock_gettime every look at the clock. */
static void expect_hooked_calls(void) {
    unsigned long *calls = (unsigned long *)dlsym(RTLD_DEFAULT, "hooked_calls");
    CHECK_THAT(calls != NULL, "the hooks are not preloaded");
    for (int hook = 0; hook < 5; hook++) CHECK_THAT(calls[hook] > 0, "hook %d was never called", hook);
}

/* Many sizes at once, up to direct mappings, all live, then all freed: growth, then misses of every kind. */
static void *rise_and_fall(void *seed) {
    enum { BLOCKS = 3000 };
    uint64_t random = (uint64_t)(uintptr_t)seed;
    struct {
        void *block;
        size_t size;
    } *blocks = malloc(BLOCKS * sizeof *blocks);
    CHECK(blocks != NULL);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t dice = check_random(&random) % 1000;
            size_t limit = dice < 700 ? 300 : dice < 950 ? 6000 : dice < 999 ? 200000 : 3000000;
            blocks[i].size = 1 + check_random(&random) % limit;
            blocks[i].block = malloc(blocks[i].size);
            CHECK(blocks[i].block != NULL);
            check_fill(blocks[i].block, blocks[i].size, (uint64_t)(uintptr_t)seed + (uint64_t)i);
        }
        for (int i = 0; i < BLOCKS; i++) {
            int at = (i * 7) % BLOCKS; /* 7 does not divide 3000: each once */
            check_filled(blocks[at].block, blocks[at].size, (uint64_t)(uintptr_t)seed + (uint64_t)at);
            free(blocks[at].block);
        }
        void *direct = malloc(40 * MIB);
        CHECK(direct != NULL);
        direct = realloc(direct, 50 * MIB);
        CHECK(direct != NULL);
        free(direct);
        malloc_trim(0);
    }
    free(blocks);
    release_of_hooks();
    return NULL;
}

static void four_threads_allocate_while_their_calls_allocate(void) {
    pthread_t threads[4];
    for (int round = 0; round < 3; round++) {
        for (uintptr_t i = 0; i < 4; i++) threads[i] = check_thread(rise_and_fall, (void *)(i + 1));
        for (int i = 0; i < 4; i++) check_join(threads[i]);
    }
    expect_hooked_calls();
}

static void one_thread_allocates_while_its_calls_allocate(void) {
    rise_and_fall((void *)9);
    expect_hooked_calls();
}

/* Threads that free each other's blocks, with a purge now and then. */
static void blocks_pass_between_threads_while_calls_allocate(void) {
    churn_start(4);
    for (int i = 0; i < 20; i++) {
        usleep(20000);
        malloc_trim(0);
    }
    churn_stop();
    churn_empty_the_slots();
    expect_hooked_calls();
}

CHECK_MAIN(CASE(four_threads_allocate_while_their_calls_allocate),
           CASE(one_thread_allocates_while_its_calls_allocate),
           CASE(blocks_pass_between_threads_while_calls_allocate))
