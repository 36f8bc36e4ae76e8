/*
 * trim.c: malloc_trim(0) while other threads allocate and free. They empty their own caches when they next
 * look; the thread that trims never touches those.
 */
#include "check.h"

#include "churn.h"

#define THREADS 8
/* What the C library keeps of threads that have ended. */
#define OF_THE_C_LIBRARY (64 * KIB)

static size_t live(void) { return mallinfo2().uordblks + mallinfo2().hblkhd; }

static void check_nothing_lost(size_t before) {
    malloc_trim(0);
    size_t after = live();
    CHECK_THAT(after <= before + OF_THE_C_LIBRARY, "%zu bytes live before, %zu after everything was freed", before,
               after);
}

static void one_thread_trims_while_eight_allocate_and_free(void) {
    size_t before = live();
    churn_start(THREADS);
    for (int round = 0; round < 300; round++) {
        CHECK(malloc_trim(0) >= 0);
        if (round % 3 == 0) churn_wait(100);
    }
    churn_stop();
    check_nothing_lost(before);
}

static int trimming;

static void *trim_all_the_time(void *unused) {
    (void)unused;
    unsigned long trims = 0;
    while (__atomic_load_n(&trimming, __ATOMIC_RELAXED)) {
        malloc_trim(0);
        trims++;
        free(check_opaque(malloc(trims % 5000)));
        usleep(50);
    }
    CHECK_THAT(trims > 20, "only %lu trims", trims);
    return NULL;
}

static void *take_and_return_a_little(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    for (int i = 0; i < 500; i++) churn_step(&random);
    return NULL;
}

static void several_threads_trim_while_others_come_and_go(void) {
    size_t before = live();
    pthread_t trimmers[3], threads[THREADS];
    __atomic_store_n(&trimming, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++) trimmers[i] = check_thread(trim_all_the_time, NULL);
    for (int round = 0; round < 60; round++) {
        for (uintptr_t i = 0; i < THREADS; i++)
            threads[i] = check_thread(take_and_return_a_little, (void *)(i + 1 + (uintptr_t)round * THREADS));
        for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    }
    __atomic_store_n(&trimming, 0, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++) check_join(trimmers[i]);
    churn_empty_the_slots();
    check_nothing_lost(before);
}

static void children_are_forked_while_a_thread_trims(void) {
    pthread_t trimmer;
    size_t before = live();
    __atomic_store_n(&trimming, 1, __ATOMIC_RELAXED);
    trimmer = check_thread(trim_all_the_time, NULL);
    churn_start(4);
    for (int round = 0; round < 30; round++) {
        pid_t child = fork();
        if (child == 0) {
            uint64_t random = (uint64_t)round + 99;
            for (int i = 0; i < 300; i++) churn_step(&random);
            malloc_trim(0);
            for (int i = 0; i < 300; i++) churn_step(&random);
            _exit(0);
        }
        check_child_passed(child);
    }
    __atomic_store_n(&trimming, 0, __ATOMIC_RELAXED);
    check_join(trimmer);
    churn_stop();
    check_nothing_lost(before);
}

static pthread_barrier_t step;

static void *fill_a_cache(void *unused) {
    enum { SIZES = 40 };
    (void)unused;
    for (size_t i = 1; i <= SIZES; i++) {
        void *blocks[30];
        for (int j = 0; j < 30; j++) {
            CHECK((blocks[j] = malloc(i * 700)) != NULL);
            memset(blocks[j], 1, i * 700);
        }
        for (int j = 0; j < 30; j++) free(blocks[j]);
    }
    pthread_barrier_wait(&step);
    /* The trim happens here. */
    pthread_barrier_wait(&step);
    free(check_opaque(malloc(100000)));
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    return NULL;
}

static void threads_give_their_caches_up_when_they_next_look(void) {
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&step, NULL, THREADS + 1) == 0);
    for (int i = 0; i < THREADS; i++) threads[i] = check_thread(fill_a_cache, NULL);
    pthread_barrier_wait(&step);
    size_t cached = mallinfo2().fsmblks, resident = check_status("VmRSS:");
    CHECK_THAT(cached > MIB, "eight threads' caches hold only %zu bytes", cached);
    malloc_trim(0);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    malloc_trim(0);
    size_t left = mallinfo2().fsmblks, resident_then = check_status("VmRSS:");
    CHECK_THAT(left < cached / 20, "of %zu cached bytes %zu are left", cached, left);
    CHECK_THAT(resident_then + cached / 2 < resident, "%zu bytes resident with %zu in caches, and %zu without",
               resident, cached, resident_then);
    pthread_barrier_wait(&step);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
}

CHECK_MAIN(CASE(one_thread_trims_while_eight_allocate_and_free),
           CASE(several_threads_trim_while_others_come_and_go),
           CASE(children_are_forked_while_a_thread_trims),
           CASE(threads_give_their_caches_up_when_they_next_look))
