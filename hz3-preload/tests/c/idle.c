/*
 * idle.c: freed memory goes back although nobody takes a slow path, and no process gets a thread that has none, or does
 * not end because of one.
 */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#define ALL (192 * MIB)
/* What a process with one thread may keep: a bound of 32 MiB, and what caches hold. */
#define KEPT_ALONE (60 * MIB)
/* What it may keep of small blocks freed in a random order: each slot in a cache keeps a span. */
#define KEPT_SCATTERED (96 * MIB)
/* What one with threads may keep. */
#define KEPT (20 * MIB)
#define THREADS 8

static const size_t sizes[] = {120, 1000, 100 * 1000, 4 * 1000 * 1000};
#define SIZES (sizeof sizes / sizeof sizes[0])

static size_t resident(void) { return check_status("VmRSS:"); }

static uint64_t now_ms(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int threads_of_the_process(void) {
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    int count = -2;
    while (readdir(tasks) != NULL) count++;
    closedir(tasks);
    return count;
}

/* A thread that was joined may be listed for another moment. */
static void wait_for_threads(int count) {
    for (uint64_t end = now_ms() + 60000; threads_of_the_process() != count; usleep(10000))
        CHECK_THAT(now_ms() < end, "%d threads after a minute, %d expected", threads_of_the_process(), count);
}

/* The thread that is neither the first nor `other`. */
static int helper_beside(int other) {
    int found = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        int id = atoi(task->d_name);
        if (id != 0 && id != getpid() && id != other) {
            CHECK(found == 0);
            found = id;
        }
    }
    closedir(tasks);
    return found;
}

struct part {
    size_t bytes, size, count;
    char **blocks;
};

/* The list lies apart: it must not count. */
static void fill(struct part *part) {
    part->count = part->bytes / part->size;
    part->blocks = (char **)calloc(part->count, sizeof *part->blocks);
    CHECK(part->blocks != NULL);
    for (size_t i = 0; i < part->count; i++) {
        CHECK((part->blocks[i] = (char *)malloc(part->size)) != NULL);
        for (size_t at = 0; at < part->size; at += 4096) part->blocks[i][at] = 1;
    }
}

static void drop(struct part *part) {
    for (size_t i = 0; i < part->count; i++) free(part->blocks[i]);
    free(part->blocks);
}

/* Each span keeps some of its slots nearly to the end. */
static void shuffle(struct part *part) {
    uint64_t state = 88172645463325252u;
    for (size_t i = part->count; i > 1; i--) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        char *block = part->blocks[i - 1];
        part->blocks[i - 1] = part->blocks[state % i];
        part->blocks[state % i] = block;
    }
}

static size_t fill_and_drop(size_t size) {
    struct part part = {ALL, size, 0, NULL};
    size_t before = resident();
    fill(&part);
    CHECK(resident() > ALL / 2);
    drop(&part);
    return before;
}

/* ---- one thread -------------------------------------------------------------------------- */

static void hit(void) {
    for (int i = 0; i < 1000; i++) free(check_opaque(malloc(50)));
}

static void trickle(void) {
    free(check_opaque(malloc(200)));
    usleep(100000);
}

static void sleep_a_little(void) { usleep(100000); }

static void shrinks_meanwhile(void (*act)(void)) {
    for (size_t i = 0; i < SIZES; i++) {
        pid_t child = fork();
        if (child == 0) {
            size_t before = fill_and_drop(sizes[i]);
            for (uint64_t end = now_ms() + 60000; resident() > before + KEPT_ALONE; act())
                CHECK_THAT(now_ms() < end, "%zu bytes: %zu resident after a minute, %zu before", sizes[i], resident(),
                           before);
            CHECK(threads_of_the_process() == 1);
            _exit(0);
        }
        check_child_passed(child);
    }
}

static void a_process_that_only_hits_shrinks(void) { shrinks_meanwhile(hit); }
static void a_process_that_trickles_shrinks(void) { shrinks_meanwhile(trickle); }
static void a_process_that_sleeps_shrinks(void) { shrinks_meanwhile(sleep_a_little); }

/* Nothing happens after the last free. */
static void small_blocks_freed_in_a_random_order_leave_little(void) {
    static const size_t small[] = {64, 120, 1000, 4000};
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        pid_t child = fork();
        if (child == 0) {
            struct part part = {ALL, small[i], 0, NULL};
            const size_t before = resident();
            fill(&part);
            shuffle(&part);
            drop(&part);
            CHECK_THAT(resident() < before + KEPT_SCATTERED, "%zu bytes: %zu resident, %zu before", small[i],
                       resident(), before);
            _exit(0);
        }
        check_child_passed(child);
    }
}

/* There are few frees, and none after the last: each gives back as much as it frees. */
static void few_long_blocks_leave_little(void) {
    static const size_t lengths[] = {20 * MIB, 33000000, 60000000, 100 * MIB};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        pid_t child = fork();
        if (child == 0) {
            void *blocks[32];
            const size_t before = resident(), count = 600 * MIB / lengths[i];
            for (size_t j = 0; j < count; j++) {
                CHECK((blocks[j] = malloc(lengths[i])) != NULL);
                memset(blocks[j], 1, lengths[i]);
            }
            for (size_t j = 0; j < count; j++) free(blocks[j]);
            usleep(10000);
            CHECK_THAT(resident() < before + 60 * MIB, "%zu bytes: %zu MiB are left of 600", lengths[i], resident() / MIB);
            _exit(0);
        }
        check_child_passed(child);
    }
}

/* Phases that follow each other at once must not pay for it each time: page faults, in pages of 4 KiB. */
static void what_is_taken_again_at_once_stays(void) {
    size_t left = 0;
    /* On a busy machine a phase may take so long that what it frees first grows old. */
    for (int attempt = 0; attempt < 10 && left <= ALL / 2; attempt++) {
        for (int i = 0; i < 3; i++) fill_and_drop(1000);
        left = resident();
    }
    CHECK_THAT(left > ALL / 2, "%zu bytes are resident after three phases", left);
}

/* unshare(2) of a user namespace is refused to a process with threads. */
static void a_process_with_one_thread_stays_so(void) {
    for (size_t i = 0; i < SIZES; i++) {
        fill_and_drop(sizes[i]);
        CHECK(threads_of_the_process() == 1);
    }
    usleep(300000);
    CHECK(threads_of_the_process() == 1);
    if (unshare(CLONE_NEWUSER) != 0) {
        CHECK_THAT(errno != EINVAL, "unshare: %s", strerror(errno));
        check_skip("no user namespaces: %s", strerror(errno));
    }
}

/* ---- several threads --------------------------------------------------------------------- */

static pthread_barrier_t together;
static int stop[2];

static void wait_until_stopped(void) {
    struct pollfd end = {stop[0], POLLIN, 0};
    while (poll(&end, 1, -1) < 0 && errno == EINTR) {}
}

static void *drop_and_poll(void *part) {
    if (((struct part *)part)->blocks == NULL) fill((struct part *)part);
    pthread_barrier_wait(&together);
    drop((struct part *)part);
    pthread_barrier_wait(&together);
    wait_until_stopped();
    return NULL;
}

/* Threads free what they, or the first thread, allocated, and then sit in poll. */
static void threads_poll(size_t size, int own, size_t kept) {
    struct part parts[THREADS];
    pthread_t threads[THREADS];
    size_t before = resident();
    CHECK(pipe(stop) == 0 && pthread_barrier_init(&together, NULL, THREADS + 1) == 0);
    for (int i = 0; i < THREADS; i++) {
        parts[i] = (struct part){ALL / THREADS, size, 0, NULL};
        if (!own) fill(&parts[i]);
    }
    for (int i = 0; i < THREADS; i++) threads[i] = check_thread(drop_and_poll, &parts[i]);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    CHECK(check_status("VmHWM:") > before + ALL / 2);
    for (uint64_t end = now_ms() + 60000; resident() > before + kept; usleep(50000))
        CHECK_THAT(now_ms() < end, "%zu bytes, own %d: %zu resident after a minute, %zu before", size, own, resident(),
                   before);
    CHECK(close(stop[1]) == 0);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    CHECK(close(stop[0]) == 0 && pthread_barrier_destroy(&together) == 0);
}

static void a_process_whose_threads_poll_shrinks(void) {
    for (size_t i = 0; i < SIZES; i++) {
        for (int own = 0; own < 2; own++) {
            pid_t child = fork();
            if (child == 0) {
                threads_poll(sizes[i], own, KEPT);
                _exit(0);
            }
            check_child_passed(child);
        }
    }
}

static void no_helper_is_started_where_none_may_be(void) {
    if (getenv("HZ3_BACKGROUND_THREAD") == NULL) {
        CHECK(setenv("HZ3_BACKGROUND_THREAD", "0", 1) == 0);
        execl("/proc/self/exe", "idle", __func__, (char *)NULL);
        _exit(99);
    }
    threads_poll(1000, 1, ALL);
    threads_poll(100000, 0, ALL);
    wait_for_threads(1);
}

static void *churn_a_little(void *unused) {
    for (int i = 0; i < 200000; i++) {
        void *blocks[100];
        for (int j = 0; j < 100; j++) blocks[j] = check_opaque(malloc(300));
        for (int j = 0; j < 100; j++) free(blocks[j]);
        if (i % 1000 == 0) usleep(1000);
    }
    return unused;
}

static void little_memory_needs_no_helper(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) threads[i] = check_thread(churn_a_little, NULL);
    usleep(200000);
    CHECK(threads_of_the_process() <= 3);
    for (int i = 0; i < 2; i++) check_join(threads[i]);
    wait_for_threads(1);
}

static int other;

static void *poll_only(void *unused) {
    other = (int)syscall(SYS_gettid);
    free(check_opaque(malloc(100)));
    pthread_barrier_wait(&together);
    wait_until_stopped();
    return unused;
}

/* A second thread that rests, and a helper. */
static pthread_t begin_with_a_helper(void) {
    CHECK(pipe(stop) == 0 && pthread_barrier_init(&together, NULL, 2) == 0);
    pthread_t thread = check_thread(poll_only, NULL);
    pthread_barrier_wait(&together);
    fill_and_drop(1000);
    wait_for_threads(3);
    CHECK(helper_beside(other) != 0);
    return thread;
}

/* Whether the helper sleeps for two seconds. */
static int rests(void) {
    static const char field[] = "\nvoluntary_ctxt_switches:";
    char status[300];
    snprintf(status, sizeof status, "/proc/self/task/%d/status", helper_beside(other));
    uint64_t before = check_status_number(status, field, 10);
    usleep(2000000);
    return check_status_number(status, field, 10) == before;
}

static void a_helper_without_work_never_wakes(void) {
    begin_with_a_helper();
    for (uint64_t end = now_ms() + 60000; !rests();)
        CHECK_THAT(now_ms() < end, "it still wakes after a minute");
    /* And wakes again for work. */
    size_t before = resident();
    fill_and_drop(100000);
    for (uint64_t end = now_ms() + 60000; resident() > before + KEPT; usleep(50000))
        CHECK_THAT(now_ms() < end, "%zu bytes resident after a minute, %zu before", resident(), before);
    /* All threads are asked to change it: the helper too. */
    CHECK(setgid(getgid()) == 0);
    _exit(0);
}

static void a_helper_ends_once_one_thread_is_left(void) {
    pthread_t thread = begin_with_a_helper();
    CHECK(close(stop[1]) == 0);
    check_join(thread);
    wait_for_threads(1);
    fill_and_drop(1000);
    usleep(300000);
    CHECK(threads_of_the_process() == 1);
    /* The next thread makes it wanted again. */
    begin_with_a_helper();
    _exit(0);
}

static void a_child_has_one_thread_until_it_starts_others(void) {
    begin_with_a_helper();
    pid_t child = fork();
    if (child == 0) {
        size_t before = fill_and_drop(1000);
        usleep(300000);
        CHECK(threads_of_the_process() == 1);
        CHECK(resident() < before + ALL / 2);
        begin_with_a_helper();
        _exit(0);
    }
    check_child_passed(child);
    CHECK(helper_beside(other) != 0);
    _exit(0);
}

static void *end_after_the_first(void *unused) {
    struct part part = {ALL, 1000, 0, NULL};
    fill(&part);
    drop(&part);
    usleep(500000);
    return unused;
}

/* POSIX: a process ends with its last thread. */
static void a_process_ends_although_it_has_a_helper(void) {
    for (int rests = 0; rests < 2; rests++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            begin_with_a_helper();
            if (rests) usleep(2500000);
            check_thread(end_after_the_first, NULL);
            CHECK(close(stop[1]) == 0);
            pthread_exit(NULL);
        }
        int status = 0;
        pid_t ended = 0;
        for (uint64_t end = now_ms() + 60000; ended == 0 && now_ms() < end; usleep(10000))
            ended = waitpid(child, &status, WNOHANG);
        if (ended == 0) kill(child, SIGKILL);
        CHECK_THAT(ended == child, "the process lives on without a thread of the program's");
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

/* Threads that were there before a filter that refuses others. */
static void a_filter_may_refuse_the_helper(void) {
    CHECK(pipe(stop) == 0 && pthread_barrier_init(&together, NULL, 2) == 0);
    check_thread(poll_only, NULL);
    pthread_barrier_wait(&together);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        check_skip("no filters of system calls: %s", strerror(errno));
    errno = 77;
    size_t before = fill_and_drop(1000);
    CHECK(threads_of_the_process() == 2);
    CHECK_THAT(resident() < before + KEPT_ALONE, "%zu bytes resident, %zu before", resident(), before);
    _exit(0);
}

CHECK_MAIN(CASE(a_process_that_only_hits_shrinks),
           CASE(a_process_that_trickles_shrinks),
           CASE(a_process_that_sleeps_shrinks),
           CASE(small_blocks_freed_in_a_random_order_leave_little),
           CASE(few_long_blocks_leave_little),
           CASE(what_is_taken_again_at_once_stays),
           CASE(a_process_with_one_thread_stays_so),
           CASE(a_process_whose_threads_poll_shrinks),
           CASE(no_helper_is_started_where_none_may_be),
           CASE(little_memory_needs_no_helper),
           CASE(a_helper_without_work_never_wakes),
           CASE(a_helper_ends_once_one_thread_is_left),
           CASE(a_child_has_one_thread_until_it_starts_others),
           CASE(a_process_ends_although_it_has_a_helper),
           CASE(a_filter_may_refuse_the_helper))
