/*
 * resting.c: threads that worked and rest. What lies in their caches goes back to the system after a while, and at
 * malloc_trim(3), while they may wake at any moment or be stopped in the middle of a call, for ever.
 */
#include "check.h"

#include <semaphore.h>
#include <signal.h>
#include <time.h>

#include "churn.h"

enum { THREADS = 128, KEPT_BLOCKS = 8, MOST = 128 };

static double seconds(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- what resting threads keep ------------------------------------------------------------- */

static pthread_barrier_t worked, checked;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

/* Twice as many blocks of every size class as a cache has room for; a few of the smallest stay. */
static void use_every_class(char *(*kept)[KEPT_BLOCKS]) {
    int class = 0;
    for (double next = 64; next <= 32760; next *= 1.12, class++) {
        char *blocks[MOST];
        size_t size = (size_t)next;
        for (int i = 0; i < MOST; i++) {
            blocks[i] = (char *)malloc(size);
            CHECK(blocks[i] != NULL);
            check_fill(blocks[i], size, (uint64_t)i);
        }
        for (int i = 0; i < MOST; i++) {
            check_filled(blocks[i], size, (uint64_t)i);
            if (size < 72 && i < KEPT_BLOCKS) {
                if (kept[class][i] != NULL) {
                    check_filled(kept[class][i], size, (uint64_t)i);
                    free(kept[class][i]);
                }
                kept[class][i] = blocks[i];
            } else {
                free(blocks[i]);
            }
        }
    }
}

static void *work_and_rest(void *unused) {
    char *kept[60][KEPT_BLOCKS];
    memset(kept, 0, sizeof kept);
    for (int round = 0; round < 2; round++) {
        /* One after the other: threads that grow the heap at once may take more address space, whose tables count here. */
        pthread_mutex_lock(&turn);
        use_every_class(kept);
        pthread_mutex_unlock(&turn);
        pthread_barrier_wait(&worked);
        /* Rests. */
        pthread_barrier_wait(&checked);
    }
    use_every_class(kept);
    for (size_t class = 0; class < 60; class++)
        for (int i = 0; i < KEPT_BLOCKS; i++) free(kept[class][i]);
    return unused;
}

/* The first thread's slow paths, which do upkeep. */
static void work_for(double time) {
    for (double end = seconds() + time; seconds() < end;) {
        static void *blocks[2000];
        for (int i = 0; i < 2000; i++) CHECK((blocks[i] = malloc(200 + (size_t)i)) != NULL);
        for (int i = 0; i < 2000; i++) free(blocks[i]);
        usleep(1000);
    }
}

static size_t kept_per_thread(size_t before) {
    size_t now = check_status("VmRSS:");
    return now > before ? (now - before) / THREADS : 0;
}

/* `most` bytes of a thread's, twice; it works in between. */
static void rests(int is_trimmed, size_t most) {
    work_for(0.1);
    malloc_trim(0);
    size_t before = check_status("VmRSS:");
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&worked, NULL, THREADS + 1) == 0 && pthread_barrier_init(&checked, NULL, THREADS + 1) == 0);
    for (int i = 0; i < THREADS; i++) threads[i] = check_thread(work_and_rest, NULL);
    for (int round = 0; round < 2; round++) {
        pthread_barrier_wait(&worked);
        /* Trims again, too: the background thread may hold some of it at that moment. */
        double end = seconds() + 20;
        do {
            if (is_trimmed) malloc_trim(0);
            else work_for(1);
        } while (kept_per_thread(before) > most && seconds() < end);
        size_t kept = kept_per_thread(before);
        CHECK_THAT(kept <= most, "round %d: %zu KiB per thread", round, kept / KIB);
        pthread_barrier_wait(&checked);
    }
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
}

static void what_threads_keep_while_they_rest_goes_after_a_while(void) { rests(0, 700 * KIB); }

static void a_trim_takes_what_threads_keep_while_they_rest(void) { rests(1, 150 * KIB); }

/* Threads that worked, one after the other, and gave nothing back by time: what all keep is bounded. */
static void many_threads_that_work_keep_little_in_sum(void) {
    if (getenv("HZ3_PURGE_DELAY_MS") == NULL) {
        CHECK(setenv("HZ3_PURGE_DELAY_MS", "-1", 1) == 0);
        execl("/proc/self/exe", "resting", __func__, (char *)NULL);
        _exit(99);
    }
    rests(0, 3400 * KIB);
}

/* ---- takers beside hits -------------------------------------------------------------------- */

static int stopping;

static int is_stopping(void) { return __atomic_load_n(&stopping, __ATOMIC_RELAXED); }

static void *trim_all_the_time(void *unused) {
    while (!is_stopping()) malloc_trim(0);
    return unused;
}

/* A few blocks of few sizes, so that caches run down to the last slot and up again. */
static void *swing(void *number) {
    uint64_t random = (uint64_t)(uintptr_t)number;
    struct {
        unsigned char *start;
        size_t size;
        uint64_t seed;
    } blocks[200];
    size_t count = 0, goal = 0;
    while (!is_stopping()) {
        if (count == goal) goal = check_random(&random) % 8 == 0 ? check_random(&random) % 200 : check_random(&random) % 5;
        if (count < goal) {
            static const size_t sizes[] = {24, 100, 100, 500, 3000, 20000};
            size_t size = sizes[check_random(&random) % 6];
            blocks[count].start = (unsigned char *)malloc(size);
            CHECK(blocks[count].start != NULL);
            blocks[count].size = size;
            blocks[count].seed = check_random(&random);
            check_fill(blocks[count].start, size < 64 ? size : 64, blocks[count].seed);
            count++;
        } else if (count > goal) {
            size_t at = check_random(&random) % count;
            check_filled(blocks[at].start, blocks[at].size < 64 ? blocks[at].size : 64, blocks[at].seed);
            free(blocks[at].start);
            blocks[at] = blocks[--count];
        }
    }
    while (count > 0) free(blocks[--count].start);
    return NULL;
}

static void trims_beside_threads_at_full_speed_disturb_nothing(void) {
    pthread_t threads[6], trimmers[2];
    churn_start(2);
    for (int i = 0; i < 6; i++) threads[i] = check_thread(swing, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < 2; i++) trimmers[i] = check_thread(trim_all_the_time, NULL);
    usleep(4000000);
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++) check_join(trimmers[i]);
    for (int i = 0; i < 6; i++) check_join(threads[i]);
    churn_stop();
}

static void forks_beside_trims_disturb_nothing(void) {
    pthread_t threads[3], trimmer = check_thread(trim_all_the_time, NULL);
    for (int i = 0; i < 3; i++) threads[i] = check_thread(swing, (void *)(uintptr_t)(i + 1));
    for (double end = seconds() + 3; seconds() < end;) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            char *kept[60][KEPT_BLOCKS];
            memset(kept, 0, sizeof kept);
            use_every_class(kept);
            malloc_trim(0);
            use_every_class(kept);
            _exit(0);
        }
        check_child_passed(child);
    }
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    check_join(trimmer);
    for (int i = 0; i < 3; i++) check_join(threads[i]);
}

/* ---- threads that are stopped, as by a garbage collector ----------------------------------- */

static sem_t stopped;
static int trimmed;

static void stop_here(int signal) {
    int saved = errno;
    sigset_t all;
    (void)signal;
    sigfillset(&all);
    sigdelset(&all, SIGUSR2);
    CHECK(sem_post(&stopped) == 0);
    sigsuspend(&all);
    errno = saved;
}

static void go_on(int signal) { (void)signal; }

static void *trim_once(void *unused) {
    malloc_trim(0);
    __atomic_store_n(&trimmed, 1, __ATOMIC_RELEASE);
    return unused;
}

/* Hits of one size, between no and four blocks, and nothing else. */
static void *hit(void *number) {
    uint64_t random = (uint64_t)(uintptr_t)number, turn = 0;
    uint64_t *blocks[4];
    size_t count = 0;
    while (!is_stopping()) {
        turn++;
        if (count < 4 && (count == 0 || check_random(&random) % 2 == 0)) {
            uint64_t *block = (uint64_t *)malloc(40);
            CHECK(block != NULL);
            block[0] = turn;
            block[4] = (uintptr_t)number << 40 | turn;
            blocks[count++] = block;
        } else {
            uint64_t *block = blocks[--count];
            CHECK(block[4] == ((uintptr_t)number << 40 | block[0]));
            free(block);
        }
    }
    while (count > 0) free(blocks[--count]);
    return NULL;
}

static void threads_that_are_stopped_in_the_middle_of_a_call_lose_nothing_they_use(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigfillset(&action.sa_mask);
    action.sa_handler = stop_here;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    action.sa_handler = go_on;
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    CHECK(sem_init(&stopped, 0, 0) == 0);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) threads[i] = check_thread(hit, (void *)(uintptr_t)(i + 1));
    for (double end = seconds() + 6; seconds() < end;) {
        for (int i = 0; i < 3; i++) CHECK(pthread_kill(threads[i], SIGUSR1) == 0);
        for (int i = 0; i < 3; i++)
            while (sem_wait(&stopped) != 0) CHECK(errno == EINTR);
        __atomic_store_n(&trimmed, 0, __ATOMIC_RELAXED);
        pthread_t trimmer = check_thread(trim_once, NULL);
        /* Not for ever: they may have been stopped with a lock. */
        for (int naps = 0; naps < 100 && !__atomic_load_n(&trimmed, __ATOMIC_ACQUIRE); naps++) usleep(100);
        for (int i = 0; i < 3; i++) CHECK(pthread_kill(threads[i], SIGUSR2) == 0);
        check_join(trimmer);
        usleep(100);
    }
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++) check_join(threads[i]);
}

CHECK_MAIN(CASE(what_threads_keep_while_they_rest_goes_after_a_while),
           CASE(a_trim_takes_what_threads_keep_while_they_rest), CASE(many_threads_that_work_keep_little_in_sum),
           CASE(trims_beside_threads_at_full_speed_disturb_nothing), CASE(forks_beside_trims_disturb_nothing),
           CASE(threads_that_are_stopped_in_the_middle_of_a_call_lose_nothing_they_use))
