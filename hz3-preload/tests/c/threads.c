/*
 * threads.c: threads that start and end, few and many, with large and with tiny stacks, and blocks
 * that outlive them.
 */
#include "check.h"

#include "churn.h"

#define SMALLEST_STACK (16 * KIB)
/* glibc takes no less than 128 KiB on AArch64. */
#ifdef __aarch64__
#define SMALL_STACK (128 * KIB)
#else
#define SMALL_STACK (64 * KIB)
#endif

/* Attributes of a thread whose stack is the smallest that the C library accepts. */
static void small_stack(pthread_attr_t *attributes) {
    CHECK(pthread_attr_init(attributes) == 0);
    size_t size = SMALLEST_STACK;
    while (pthread_attr_setstacksize(attributes, size) != 0) size += 4 * KIB;
    CHECK_THAT(size <= SMALL_STACK, "the smallest stack is %zu bytes", size);
}

/* ---- blocks that outlive their thread ---------------------------------------------------- */

#define LEFT 1000

static size_t left_size(size_t i) { return i % 100 == 99 ? 300000 : 1 + i * 7 % 3000; }

static void *leave_blocks(void *unused) {
    (void)unused;
    void **blocks = (void **)malloc(LEFT * sizeof *blocks);
    CHECK(blocks != NULL);
    for (size_t i = 0; i < LEFT; i++) {
        blocks[i] = malloc(left_size(i));
        CHECK(blocks[i] != NULL);
        check_fill(blocks[i], left_size(i), i);
    }
    return blocks;
}

static void *free_left_blocks(void *left) {
    void **blocks = (void **)left;
    for (size_t i = 0; i < LEFT; i++) {
        check_filled(blocks[i], left_size(i), i);
        free(blocks[i]);
    }
    free(blocks);
    return NULL;
}

static void blocks_outlive_the_thread_that_took_them(void) {
    for (int round = 0; round < 20; round++) {
        void *left[3];
        pthread_t threads[3];
        for (int i = 0; i < 3; i++) threads[i] = check_thread(leave_blocks, NULL);
        for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], &left[i]) == 0);
        free_left_blocks(left[0]);
        pthread_t first = check_thread(free_left_blocks, left[1]);
        pthread_t second = check_thread(free_left_blocks, left[2]);
        check_join(first);
        check_join(second);
    }
}

/* ---- threads one after another ----------------------------------------------------------- */

static void *use_a_little(void *previous) {
    free(previous);
    void *blocks[20];
    for (size_t i = 0; i < 20; i++) {
        blocks[i] = malloc(i * 60 + 1);
        CHECK(blocks[i] != NULL);
        memset(blocks[i], 1, i * 60 + 1);
    }
    for (size_t i = 1; i < 20; i++) free(blocks[i]);
    void *large = malloc(50000);
    CHECK(large != NULL);
    memset(large, 1, 50000);
    free(large);
    return blocks[0];
}

static void twenty_thousand_threads_one_after_another_leave_nothing_behind(void) {
    void *left = NULL;
    size_t before = 0;
    for (int i = 0; i < 20000; i++) {
        if (i == 1000) before = check_status("VmRSS:");
        CHECK(pthread_join(check_thread(use_a_little, left), &left) == 0);
    }
    free(left);
    size_t after = check_status("VmRSS:");
    CHECK_THAT(after < before + 8 * MIB, "resident memory went from %zu to %zu bytes", before,
               after);
}

static pthread_mutex_t chain_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t chain_ended = PTHREAD_COND_INITIALIZER;
static int chain_left;

/* Each link starts the next one and ends, detached. */
static void *chain_link(void *previous) {
    void *mine = use_a_little(previous);
    pthread_mutex_lock(&chain_lock);
    int last = --chain_left == 0;
    if (last) pthread_cond_signal(&chain_ended);
    pthread_mutex_unlock(&chain_lock);
    if (last)
        free(mine);
    else
        CHECK(pthread_detach(check_thread(chain_link, mine)) == 0);
    return NULL;
}

static void detached_threads_start_one_another(void) {
    chain_left = 3000;
    CHECK(pthread_detach(check_thread(chain_link, NULL)) == 0);
    pthread_mutex_lock(&chain_lock);
    while (chain_left > 0) pthread_cond_wait(&chain_ended, &chain_lock);
    pthread_mutex_unlock(&chain_lock);
}

/* ---- threads at the same time ------------------------------------------------------------ */

#define CROWD 2000

static pthread_barrier_t crowd_barrier;
static void *crowd_blocks[CROWD][8];
static size_t crowd_size;

static size_t crowd_block_size(size_t thread, size_t i) {
    return i == 7 ? 40000 : 1 + (thread * 37 + i * 411) % 2500;
}

/* Takes blocks, waits until every thread has, then frees those of its neighbour. */
static void *join_the_crowd(void *index) {
    size_t self = (size_t)(uintptr_t)index, neighbour = (self + 1) % crowd_size;
    for (size_t i = 0; i < 8; i++) {
        crowd_blocks[self][i] = malloc(crowd_block_size(self, i));
        CHECK(crowd_blocks[self][i] != NULL);
        check_fill(crowd_blocks[self][i], crowd_block_size(self, i), self);
    }
    pthread_barrier_wait(&crowd_barrier);
    for (size_t i = 0; i < 8; i++) {
        check_filled(crowd_blocks[neighbour][i], crowd_block_size(neighbour, i), neighbour);
        free(crowd_blocks[neighbour][i]);
    }
    void *again = malloc(1000);
    CHECK(again != NULL);
    pthread_barrier_wait(&crowd_barrier);
    free(again);
    return NULL;
}

static void gather_a_crowd(size_t size, size_t resident_limit) {
    static pthread_t threads[CROWD];
    pthread_attr_t attributes;
    small_stack(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, SMALL_STACK) == 0);
    crowd_size = size;
    CHECK(pthread_barrier_init(&crowd_barrier, NULL, (unsigned)size) == 0);
    for (size_t i = 0; i < size; i++) {
        int error = pthread_create(&threads[i], &attributes, join_the_crowd, (void *)i);
        if (error == EAGAIN) check_skip("this system allows only %zu threads here", i);
        CHECK_THAT(error == 0, "pthread_create: %s", strerror(error));
    }
    for (size_t i = 0; i < size; i++) check_join(threads[i]);
    size_t resident = check_status("VmHWM:");
    CHECK_THAT(resident < resident_limit, "%zu threads: %zu bytes resident", size, resident);
    pthread_barrier_destroy(&crowd_barrier);
}

static void three_hundred_live_threads_allocate(void) { gather_a_crowd(300, 128 * MIB); }

static void two_thousand_live_threads_allocate(void) { gather_a_crowd(2000, 512 * MIB); }

static void *churn_on_a_small_stack(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    for (int i = 0; i < 3000; i++) churn_step(&random);
    void *block = calloc(1000, 3);
    block = realloc(block, 9000000);
    CHECK(block != NULL);
    block = realloc(block, 10);
    CHECK(block != NULL);
    free(block);
    CHECK(posix_memalign(&block, 1 << 20, 100) == 0);
    free(block);
    CHECK(malloc_trim(0) >= 0);
    CHECK(malloc(check_size(SIZE_MAX)) == NULL);
    return NULL;
}

static void threads_with_the_smallest_stack_allocate(void) {
    pthread_attr_t attributes;
    pthread_t threads[8];
    small_stack(&attributes);
    for (uintptr_t i = 0; i < 8; i++)
        threads[i] = check_thread_at(__FILE__, __LINE__, &attributes, churn_on_a_small_stack,
                                     (void *)(i + 1));
    for (int i = 0; i < 8; i++) check_join(threads[i]);
    churn_empty_the_slots();
}

/* ---- cancellation ------------------------------------------------------------------------ */

static int cancellation_sent;

/* POSIX lists no allocation function among the cancellation points. */
static void *allocate_with_a_cancellation_pending(void *malloc_trim_symbol) {
    int (*trim)(size_t) = (int (*)(size_t))malloc_trim_symbol;
    while (!__atomic_load_n(&cancellation_sent, __ATOMIC_ACQUIRE)) sched_yield();
    uint64_t random = 9;
    for (int i = 0; i < 5000; i++) churn_step(&random);
    CHECK(malloc(check_size(SIZE_MAX)) == NULL);
    if (trim != NULL) CHECK(trim(0) >= 0);
    return (void *)1;
}

static void allocation_is_no_cancellation_point(void) {
    void *trim = check_symbol_if_any("malloc_trim");
    for (int round = 0; round < 10; round++) {
        void *result = NULL;
        cancellation_sent = 0;
        pthread_t thread = check_thread(allocate_with_a_cancellation_pending, trim);
        CHECK(pthread_cancel(thread) == 0);
        __atomic_store_n(&cancellation_sent, 1, __ATOMIC_RELEASE);
        CHECK(pthread_join(thread, &result) == 0);
        CHECK_THAT(result == (void *)1, "the thread was cancelled inside the allocator");
    }
    churn_empty_the_slots();
}

static void *churn_until_cancelled(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    for (;;) {
        struct churn_block *block = churn_take(&random);
        pthread_cleanup_push((void (*)(void *))churn_release, block);
        churn_step(&random);
        pthread_testcancel();
        pthread_cleanup_pop(1);
    }
    return NULL;
}

static void cancelled_threads_free_in_their_cleanup_handlers(void) {
    for (int round = 0; round < 50; round++) {
        pthread_t threads[3];
        void *result = NULL;
        for (uintptr_t i = 0; i < 3; i++)
            threads[i] = check_thread(churn_until_cancelled, (void *)(i + 1));
        for (int i = 0; i < 3; i++) CHECK(pthread_cancel(threads[i]) == 0);
        for (int i = 0; i < 3; i++) {
            CHECK(pthread_join(threads[i], &result) == 0);
            CHECK(result == PTHREAD_CANCELED);
        }
    }
    churn_empty_the_slots();
}

CHECK_MAIN(CASE(blocks_outlive_the_thread_that_took_them),
           CASE(twenty_thousand_threads_one_after_another_leave_nothing_behind),
           CASE(detached_threads_start_one_another),
           CASE(three_hundred_live_threads_allocate),
           CASE(two_thousand_live_threads_allocate),
           CASE(threads_with_the_smallest_stack_allocate),
           CASE(allocation_is_no_cancellation_point),
           CASE(cancelled_threads_free_in_their_cleanup_handlers))
