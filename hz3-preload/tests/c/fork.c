/*
 * fork.c: processes made by a process whose other threads allocate all the time.
 */
#include "check.h"

#include <spawn.h>
#include <sys/time.h>

#include "churn.h"

extern char **environ;

#define BLOCKS 500

/* A program with the same C library, so that the preloaded library fits it, and its argument. */
#ifdef __GLIBC__
#define OTHER_PROGRAM "true", NULL
#else
#define OTHER_PROGRAM "/proc/self/exe", (char *)"--list"
#endif

static struct churn_block *own_blocks[BLOCKS];

static void *churn_a_little(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    for (int i = 0; i < 200; i++) churn_step(&random);
    return NULL;
}

/* What a child does with the heap it has inherited. */
static void use_the_inherited_heap(uint64_t seed) {
    uint64_t random = seed;
    for (int i = 0; i < 200; i++) churn_step(&random);
    for (int i = 0; i < BLOCKS; i += 2) {
        churn_release(own_blocks[i]);
        own_blocks[i] = churn_take(&random);
    }
    churn_empty_the_slots();
    for (int i = 0; i < 100; i++) churn_step(&random);
}

static void start_threads_in_the_child(void) {
    pthread_t threads[2];
    for (uintptr_t i = 0; i < 2; i++) threads[i] = check_thread(churn_a_little, (void *)(i + 7));
    for (int i = 0; i < 2; i++) check_join(threads[i]);
}

static void take_own_blocks(void) {
    uint64_t random = 5;
    for (int i = 0; i < BLOCKS; i++) own_blocks[i] = churn_take(&random);
}

static void release_own_blocks(void) {
    for (int i = 0; i < BLOCKS; i++) churn_release(own_blocks[i]);
}

static void children_of_a_threaded_process_allocate_and_free_its_blocks(void) {
    take_own_blocks();
    churn_start(4);
    for (uint64_t round = 0; round < 50; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            use_the_inherited_heap(round);
            if (round % 2) exit(0);
            _exit(0);
        }
        check_child_passed(child);
    }
    churn_stop();
    release_own_blocks();
}

static void children_of_a_threaded_process_start_threads(void) {
    take_own_blocks();
    churn_start(4);
    for (uint64_t round = 0; round < 40; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            start_threads_in_the_child();
            use_the_inherited_heap(round);
            _exit(0);
        }
        check_child_passed(child);
    }
    churn_stop();
    release_own_blocks();
}

static void *fork_repeatedly(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    for (int round = 0; round < 40; round++) {
        churn_step(&random);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            use_the_inherited_heap(random);
            if (round % 4 == 0) start_threads_in_the_child();
            _exit(0);
        }
        check_child_passed(child);
    }
    return NULL;
}

static void several_threads_fork_at_once(void) {
    pthread_t threads[4];
    take_own_blocks();
    churn_start(2);
    for (uintptr_t i = 0; i < 4; i++) threads[i] = check_thread(fork_repeatedly, (void *)(i + 1));
    for (int i = 0; i < 4; i++) check_join(threads[i]);
    churn_stop();
    release_own_blocks();
}

static void descend(int generations) {
    uint64_t random = (uint64_t)generations;
    for (int i = 0; i < 100; i++) churn_step(&random);
    if (generations == 0) return;
    pthread_t thread = check_thread(churn_a_little, (void *)3);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        descend(generations - 1);
        _exit(0);
    }
    check_child_passed(child);
    check_join(thread);
}

static void children_fork_children_of_their_own(void) {
    churn_start(2);
    for (int round = 0; round < 8; round++) descend(6);
    churn_stop();
}

static void many_children_live_at_once(void) {
    enum { CHILDREN = 40 };
    pid_t children[CHILDREN];
    take_own_blocks();
    churn_start(2);
    for (uint64_t i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            use_the_inherited_heap(i);
            _exit(0);
        }
    }
    for (int i = 0; i < CHILDREN; i++) check_child_passed(children[i]);
    churn_stop();
    release_own_blocks();
}

/* The heap of a thread that the child does not have is still good memory there. */
static void a_child_has_room_that_its_parents_threads_left(void) {
    churn_start(4);
    churn_wait(20000);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        churn_empty_the_slots();
        size_t before = check_status("VmRSS:");
        uint64_t random = 1;
        for (int i = 0; i < 50000; i++) churn_step(&random);
        churn_empty_the_slots();
        size_t after = check_status("VmRSS:");
        CHECK_THAT(after < before + 64 * MIB, "resident memory went from %zu to %zu bytes", before,
                   after);
        _exit(0);
    }
    check_child_passed(child);
    churn_stop();
}

static void a_vfork_child_executes_a_program(void) {
    char *const arguments[] = {(char *)OTHER_PROGRAM, NULL};
    churn_start(3);
    for (int round = 0; round < 100; round++) {
        pid_t child = vfork();
        if (child == 0) {
            execvp(arguments[0], arguments);
            _exit(99);
        }
        check_child_passed(child);
        uint64_t random = (uint64_t)round;
        churn_step(&random);
    }
    churn_stop();
}

/* POSIX forbids it, programs do it: the child shares the parent's memory, thread and locks. */
static void a_vfork_child_may_allocate_and_free(void) {
    churn_start(3);
    for (int round = 0; round < 200; round++) {
        pid_t child = vfork();
        if (child == 0) {
            for (size_t size = 10; size < 200000; size *= 3) {
                char *block = (char *)malloc(size);
                if (block == NULL) _exit(99);
                block[0] = block[size - 1] = 1;
                free(block);
            }
            _exit(0);
        }
        check_child_passed(child);
        uint64_t random = (uint64_t)round;
        churn_step(&random);
    }
    churn_stop();
}

static void programs_are_spawned_by_a_threaded_process(void) {
    char *const arguments[] = {(char *)OTHER_PROGRAM, NULL};
    churn_start(3);
    for (int round = 0; round < 60; round++) {
        pid_t child;
        CHECK(posix_spawnp(&child, arguments[0], NULL, NULL, arguments, environ) == 0);
        check_child_passed(child);
#ifndef __GLIBC__
        continue; /* the shell has another C library */
#endif
        CHECK(system("exit 0") == 0);
        char text[32] = "";
        FILE *pipe = popen("echo spoken", "r");
        CHECK(pipe != NULL && fgets(text, sizeof text, pipe) != NULL);
        CHECK(strcmp(text, "spoken\n") == 0);
        CHECK(pclose(pipe) == 0);
    }
    churn_stop();
}

static volatile int handler_forks, is_child_of_the_handler;

static void fork_in_a_handler(int signal) {
    (void)signal;
    pid_t child = fork();
    if (child == 0) {
        is_child_of_the_handler = 1;
        return;
    }
    /* CHECK allocates when it fails, which a handler must not. */
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) abort();
    handler_forks++;
}

/* fork(2) was async-signal-safe until POSIX.1-2024. The alarm may interrupt the allocator anywhere; both processes then
 * go on from there. */
static void a_signal_handler_of_a_process_with_one_thread_forks(void) {
    struct sigaction action = {.sa_handler = fork_in_a_handler};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval period = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_REAL, &period, NULL) == 0);
    uint64_t random = 3;
    void *blocks[64] = {NULL};
    for (int steps_of_the_child = 0; handler_forks < 3000;) {
        size_t i = check_random(&random) % 64;
        free(blocks[i]);
        blocks[i] = malloc(100000 + check_random(&random) % 4096);
        CHECK(blocks[i] != NULL);
        if (is_child_of_the_handler && ++steps_of_the_child == 50) _exit(0);
    }
    CHECK(setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL) == 0);
    for (int i = 0; i < 64; i++) free(blocks[i]);
}

static int streams_stopping;

static void *flush_all_streams(void *unused) {
    while (!__atomic_load_n(&streams_stopping, __ATOMIC_RELAXED)) CHECK(fflush(NULL) == 0);
    return unused;
}

static void *read_long_lines(void *text) {
    while (!__atomic_load_n(&streams_stopping, __ATOMIC_RELAXED)) {
        FILE *file = fmemopen(text, strlen((char *)text), "r");
        CHECK(file != NULL);
        char *line = NULL;
        size_t size = 0;
        CHECK(getline(&line, &size, file) > 0);
        free(line);
        CHECK(fclose(file) == 0);
    }
    return NULL;
}

/* fflush(NULL) holds the list of streams and waits for a stream whose reader may allocate; fork(2) takes the list too. */
static void streams_are_flushed_while_others_read_and_fork(void) {
#ifndef __GLIBC__
    check_skip("musl gives its lock of the list of streams to nobody, and takes it after the fork handlers");
#endif
    enum { READERS = 3, TEXT = 800000 };
    pthread_t threads[READERS + 1];
    char *text = (char *)malloc(TEXT);
    CHECK(text != NULL);
    memset(text, 'x', TEXT - 1);
    text[TEXT - 1] = 0;
    for (int i = 0; i < READERS; i++) threads[i] = check_thread(read_long_lines, text);
    threads[READERS] = check_thread(flush_all_streams, NULL);
    for (int round = 0; round < 1000; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            uint64_t random = (uint64_t)round;
            churn_step(&random);
            if (round % 10 == 0) CHECK(fflush(NULL) == 0);
            _exit(0);
        }
        check_child_passed(child);
    }
    __atomic_store_n(&streams_stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i <= READERS; i++) check_join(threads[i]);
    free(text);
}

CHECK_MAIN(CASE(children_of_a_threaded_process_allocate_and_free_its_blocks),
           CASE(children_of_a_threaded_process_start_threads),
           CASE(several_threads_fork_at_once),
           CASE(children_fork_children_of_their_own),
           CASE(many_children_live_at_once),
           CASE(a_child_has_room_that_its_parents_threads_left),
           CASE(a_vfork_child_executes_a_program),
           CASE(a_vfork_child_may_allocate_and_free),
           CASE(programs_are_spawned_by_a_threaded_process),
           CASE(a_signal_handler_of_a_process_with_one_thread_forks),
           CASE(streams_are_flushed_while_others_read_and_fork))
