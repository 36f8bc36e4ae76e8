/*
 * atfork.c: pthread_atfork handlers that allocate, registered at every stage of a program's life:
 * before any constructor has run, in a constructor, in main, and in such numbers that the C
 * library itself has to allocate room for them. A handler may run when the allocator has already
 * prepared itself for the fork.
 */
#include "check.h"

#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

#include "churn.h"

#define STAGES 3

/* Set where the first handler in the child starts a thread, which allocates at once. */
static int starts_a_thread;
static pthread_t thread_of_the_child;

static void *allocate_in_the_child(void *unused) {
    uint64_t random = 11;
    for (int i = 0; i < 2000; i++) churn_step(&random);
    return unused;
}

static struct {
    void *block;
    int prepared, in_parent, in_child;
} stages[STAGES];

/* Whether a handler forks: then the others have done their part. */
static int is_handler_forking;

static void prepare(int stage) {
    if (is_handler_forking) return;
    stages[stage].prepared++;
    for (size_t size = 10; size < 300000; size *= 4) {
        char *block = (char *)malloc(size);
        CHECK(block != NULL);
        block[size - 1] = 1;
        free(block);
    }
    stages[stage].block = malloc(1000);
    CHECK(stages[stage].block != NULL);
    check_fill(stages[stage].block, 1000, (uint64_t)stage);
}

static void finish(int stage) {
    if (is_handler_forking) return;
    check_filled(stages[stage].block, 1000, (uint64_t)stage);
    stages[stage].block = realloc(stages[stage].block, 100000);
    CHECK(stages[stage].block != NULL);
    check_filled(stages[stage].block, 1000, (uint64_t)stage);
    free(stages[stage].block);
    uint64_t random = (uint64_t)stage;
    for (int i = 0; i < 50; i++) churn_step(&random);
}

#define HANDLERS(stage)                                                                           \
    static void prepare_##stage(void) { prepare(stage); }                                         \
    static void parent_##stage(void) {                                                            \
        stages[stage].in_parent++;                                                                \
        finish(stage);                                                                            \
    }                                                                                             \
    static void child_##stage(void) {                                                             \
        stages[stage].in_child++;                                                                 \
        if (starts_a_thread && stage == 0) {                                                      \
            thread_of_the_child = check_thread(allocate_in_the_child, NULL);                      \
            usleep(20000);                                                                        \
        }                                                                                         \
        finish(stage);                                                                            \
    }

HANDLERS(0)
HANDLERS(1)
HANDLERS(2)

static void fork_in_the_handler(void);

/* Before every constructor, with glibc those of the libraries included. */
static void register_before_constructors(void) {
    CHECK(pthread_atfork(fork_in_the_handler, NULL, NULL) == 0);
    CHECK(pthread_atfork(prepare_0, parent_0, child_0) == 0);
}
CHECK_RUN_FIRST(register_before_constructors);

__attribute__((constructor)) static void register_in_a_constructor(void) {
    CHECK(pthread_atfork(prepare_1, parent_1, child_1) == 0);
}

static void handlers_of_every_stage_allocate(void) {
    CHECK(pthread_atfork(prepare_2, parent_2, child_2) == 0);
    churn_start(3);
    for (int round = 1; round <= 60; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        for (int stage = 0; stage < STAGES; stage++) {
            CHECK(stages[stage].prepared == round);
            CHECK(child == 0 ? stages[stage].in_child == 1 : stages[stage].in_parent == round);
        }
        if (child == 0) {
            churn_empty_the_slots();
            _exit(0);
        }
        check_child_passed(child);
    }
    churn_stop();
}

/* The thread meets an allocator that is still prepared for the fork, and waits for it. */
static void a_handler_in_the_child_starts_a_thread(void) {
    starts_a_thread = 1;
    churn_start(2);
    for (int round = 0; round < 5; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(20);
            check_join(thread_of_the_child);
            churn_empty_the_slots();
            _exit(0);
        }
        check_child_passed(child);
    }
    churn_stop();
    starts_a_thread = 0;
}

static void count_and_allocate(void) {
    void *block = malloc(777);
    CHECK(block != NULL);
    free(block);
    stages[0].in_parent++;
}

static void hundreds_of_handlers_allocate(void) {
    enum { HANDLERS_COUNT = 300 };
    churn_start(2);
    for (int i = 0; i < HANDLERS_COUNT; i++)
        CHECK(pthread_atfork(count_and_allocate, count_and_allocate, count_and_allocate) == 0);
    for (int round = 0; round < 10; round++) {
        stages[0].in_parent = 0;
        pid_t child = fork();
        CHECK(child >= 0);
        CHECK(stages[0].in_parent == 2 * HANDLERS_COUNT + (child == 0 ? 0 : 1));
        if (child == 0) _exit(0);
        check_child_passed(child);
    }
    churn_stop();
}

static int handler_forks, forks_in_the_handler, is_child_of_the_handler;

/* Runs last, with the allocator prepared for the outer fork. Every other child goes on with that fork. */
static void fork_in_the_handler(void) {
    if (!handler_forks) return;
    handler_forks = 0;
    is_handler_forking = 1;
    pid_t child = fork();
    is_handler_forking = 0;
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        is_child_of_the_handler = 1;
        uint64_t random = 5;
        for (int i = 0; i < 100; i++) churn_step(&random);
        if (forks_in_the_handler % 2 == 0) _exit(0);
        return;
    }
    check_child_passed(child);
    forks_in_the_handler++;
    handler_forks = 1;
}

static void a_handler_forks_in_turn(void) {
#ifdef __GLIBC__
    if (strverscmp(gnu_get_libc_version(), "2.36") < 0)
        check_skip("before 2.36, glibc holds its own lock while a handler runs");
#else
    check_skip("musl holds its own lock while a handler runs");
#endif
    handler_forks = 1;
    churn_start(3);
    for (int round = 0; round < 40; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            churn_empty_the_slots();
            CHECK(fflush(NULL) == 0);
            pthread_t thread = check_thread(allocate_in_the_child, NULL);
            check_join(thread);
            _exit(0);
        }
        check_child_passed(child);
        if (is_child_of_the_handler) {
            CHECK(fflush(NULL) == 0);
            pthread_t thread = check_thread(allocate_in_the_child, NULL);
            check_join(thread);
            _exit(0);
        }
        uint64_t random = 9;
        for (int i = 0; i < 50; i++) churn_step(&random);
    }
    handler_forks = 0;
    CHECK(forks_in_the_handler == 40);
    churn_stop();
}

CHECK_MAIN(CASE(handlers_of_every_stage_allocate),
           CASE(hundreds_of_handlers_allocate),
           CASE(a_handler_in_the_child_starts_a_thread),
           CASE(a_handler_forks_in_turn))
