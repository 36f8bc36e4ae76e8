/* Forks from within the allocator's own calls to the kernel, and beside them: plugin/calls.c, preloaded too, tells. */
#include "check.h"

#include <sched.h>
#include <sys/syscall.h>
#include <time.h>

/* Initial-exec: the usual access may allocate. */
#define PER_THREAD static __thread __attribute__((tls_model("initial-exec")))

PER_THREAD int inside, allocates, every, calls;
static int is_child;
static unsigned long forks;

static void listen(void (*listener)(const char *)) {
    void (**place)(const char *) = (void (**)(const char *))dlsym(RTLD_DEFAULT, "calls_listener");
    CHECK_THAT(place != NULL, "plugin/calls.c is not preloaded");
    __atomic_store_n(place, listener, __ATOMIC_RELEASE);
}

static void use_every_size(void) {
    for (size_t size = 8; size < 3000000; size = size * 3 / 2 + 8) {
        char *block = (char *)malloc(size);
        CHECK(block != NULL);
        block[0] = block[size - 1] = 1;
        free(block);
    }
}

/* The child goes on where the call was made: in the middle of a miss, of a purge, of a guard. */
static void fork_in_a_call(const char *name) {
    (void)name;
    if (inside || every == 0 || ++calls % every != 0) return;
    inside = 1;
    int error = errno;
    if (allocates) use_every_size();
    pid_t child = is_child ? 0 : fork();
    CHECK(child >= 0);
    if (child == 0) {
        is_child = 1;
        alarm(60);
        use_every_size();
    } else {
        check_child_passed(child);
        __atomic_fetch_add(&forks, 1, __ATOMIC_RELAXED);
    }
    errno = error;
    inside = 0;
}

/* Many sizes, all live, then all freed, some by direct mapping. A child ends after a while. */
static void rise_and_fall(uint64_t seed, int rounds) {
    enum { BLOCKS = 600 };
    uint64_t random = seed;
    static __thread struct {
        void *block;
        size_t size;
    } blocks[BLOCKS];
    int steps_of_the_child = 0;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t dice = check_random(&random) % 1000;
            size_t limit = dice < 700 ? 300 : dice < 900 ? 6000 : dice < 997 ? 200000 : 3000000;
            blocks[i].size = 1 + check_random(&random) % limit;
            blocks[i].block = malloc(blocks[i].size);
            CHECK(blocks[i].block != NULL);
            check_fill(blocks[i].block, blocks[i].size, seed + (uint64_t)i);
            if (is_child && ++steps_of_the_child == 300) _exit(0);
        }
        for (int i = 0; i < BLOCKS; i++) {
            int at = (i * 7) % BLOCKS; /* 7 does not divide 600: each once */
            check_filled(blocks[at].block, blocks[at].size, seed + (uint64_t)at);
            free(blocks[at].block);
            if (is_child && ++steps_of_the_child == 300) _exit(0);
        }
        malloc_trim(0);
    }
    if (is_child) _exit(0);
}

static void one_thread_forks_in_its_calls(void) {
    listen(fork_in_a_call);
    every = 7;
    rise_and_fall(3, 8);
    CHECK(forks > 10);
}

static void *fork_in_calls(void *seed) {
    every = 7 + 2 * (int)(uintptr_t)seed;
    allocates = 1;
    rise_and_fall((uint64_t)(uintptr_t)seed, 5);
    return NULL;
}

static void threads_fork_in_their_calls_which_allocate(void) {
    pthread_t threads[3];
    listen(fork_in_a_call);
    for (uintptr_t i = 0; i < 3; i++) threads[i] = check_thread(fork_in_calls, (void *)(i + 1));
    for (int i = 0; i < 3; i++) check_join(threads[i]);
    CHECK(forks > 10);
}

static int stopping;

static void allocate_in_a_call(const char *name) {
    (void)name;
    if (inside) return;
    inside = 1;
    int error = errno;
    use_every_size();
    errno = error;
    inside = 0;
}

static void *allocate_in_calls(void *seed) {
    while (!__atomic_load_n(&stopping, __ATOMIC_RELAXED)) rise_and_fall((uint64_t)(uintptr_t)seed, 1);
    return NULL;
}

/* The fork must not hold what the call of a thread that it waits for needs. */
static void a_thread_forks_while_others_calls_allocate(void) {
    pthread_t threads[3];
    listen(allocate_in_a_call);
    for (uintptr_t i = 0; i < 3; i++) threads[i] = check_thread(allocate_in_calls, (void *)(i + 1));
    for (int round = 0; round < 100; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            use_every_size();
            _exit(0);
        }
        check_child_passed(child);
    }
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++) check_join(threads[i]);
}

PER_THREAD int pauses;
static int is_in_purge;

static void pause_in_one_purge(const char *name) {
    if (strcmp(name, "madvise") != 0 || !pauses) return;
    pauses = 0;
    __atomic_store_n(&is_in_purge, 1, __ATOMIC_RELEASE);
    usleep(500000);
    __atomic_store_n(&is_in_purge, 0, __ATOMIC_RELEASE);
}

static void *free_and_purge(void *unused) {
    char *volatile block = (char *)malloc(MIB);
    CHECK(block != NULL);
    memset(block, 1, MIB);
    pauses = 1;
    free(block);
    malloc_trim(0);
    return unused;
}

static long processor_us(void) {
    struct timespec time;
    CHECK(syscall(SYS_clock_gettime, CLOCK_THREAD_CPUTIME_ID, &time) == 0);
    return time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

/* One that spins would take the processor from a holder of lower priority for ever. */
static void a_fork_that_waits_for_a_purge_takes_no_processor_time(void) {
    pthread_t thread;
    listen(pause_in_one_purge);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    thread = check_thread(free_and_purge, NULL);
    while (!__atomic_load_n(&is_in_purge, __ATOMIC_ACQUIRE)) usleep(100);
    /* Above the purging thread's priority, where that is allowed. */
    sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
    long before = processor_us();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(0);
    long taken = processor_us() - before;
    sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){.sched_priority = 0});
    check_child_passed(child);
    check_join(thread);
    CHECK_THAT(taken < 250000, "%ld us of processor time in half a second", taken);
}

CHECK_MAIN(CASE(one_thread_forks_in_its_calls), CASE(threads_fork_in_their_calls_which_allocate),
           CASE(a_thread_forks_while_others_calls_allocate),
           CASE(a_fork_that_waits_for_a_purge_takes_no_processor_time))
