/*
 * exit.c: the end of a process while its threads go on allocating, and handlers that allocate at
 * the very end. Each way to end is tried in children, many times. The path of plugin/at_exit.c's
 * library stands behind the case's name.
 */
#include "check.h"

#include <dlfcn.h>
#include <signal.h>

#include "churn.h"

/* Runs `end` in children whose other threads allocate; it must end them with status 0. */
static void end_children(void (*end)(void)) {
    for (int round = 0; round < 25; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            churn_start(3);
            end();
            _exit(50);
        }
        check_child_passed(child);
    }
}

static void exit_from_main(void) { exit(0); }

static void *exit_from_here(void *unused) {
    (void)unused;
    exit(0);
}

static void exit_from_a_thread(void) {
    check_thread(exit_from_here, NULL);
    pause();
}

static void end_with_the_last_thread(void) {
    churn_wait(100);
    __atomic_store_n(&churn_stopping, 1, __ATOMIC_RELAXED);
    pthread_exit(NULL);
}

static void allocate_at_the_end(void) {
    uint64_t random = 77;
    for (int i = 0; i < 500; i++) churn_step(&random);
    churn_empty_the_slots();
}

static void quick_exit_with_a_handler(void) {
    CHECK(at_quick_exit(allocate_at_the_end) == 0);
    quick_exit(0);
}

static void exit_is_called_while_threads_allocate(void) { end_children(exit_from_main); }

static void exit_is_called_by_a_thread_while_others_allocate(void) {
    end_children(exit_from_a_thread);
}

static void the_main_thread_ends_before_the_others(void) {
#ifndef __GLIBC__
    check_skip("in a forked child, musl 1.2.3 keeps its list of threads locked when the first thread ends");
#endif
    end_children(end_with_the_last_thread);
}

static void quick_exit_runs_handlers_that_allocate(void) {
    end_children(quick_exit_with_a_handler);
}

/* check.h's main function returns 0 right after this, with three threads at work. */
static void main_returns_while_detached_threads_allocate(void) {
    churn_start(3);
    for (int i = 0; i < 3; i++) CHECK(pthread_detach(churn_threads[i]) == 0);
    CHECK(atexit(allocate_at_the_end) == 0);
}

static int handlers_run;
static void *block_of_main;

static void handler(void) {
    handlers_run++;
    allocate_at_the_end();
    block_of_main = realloc(block_of_main, (size_t)handlers_run * 500);
    CHECK(block_of_main != NULL);
}

#ifdef __GLIBC__
static void handler_with_status(int status, void *block) {
    CHECK(status == 3);
    check_filled(block, 2000, 5);
    free(block);
    handler();
}
#else
#define on_exit(function, block) (free(block), atexit(handler))
#endif

/* Registered first, so it runs last: turns the exit status into success if all others ran. */
static void last_handler(void) {
    CHECK_THAT(handlers_run == 101, "%d handlers ran", handlers_run);
    free(block_of_main);
    _exit(0);
}

static void exit_handlers_allocate(void) {
    CHECK(atexit(last_handler) == 0);
    for (int i = 0; i < 100; i++) CHECK(atexit(handler) == 0);
    void *block = malloc(2000);
    check_fill(block, 2000, 5);
    CHECK(on_exit(handler_with_status, block) == 0);
    churn_start(2);
    exit(3);
}

static void fork_at_the_end(void) {
    for (int round = 0; round < 40; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            allocate_at_the_end();
            _exit(0);
        }
        check_child_passed(child);
    }
    _exit(0);
}

/* exit(3) ends with the destructors of the libraries: the allocator's have run, and its handlers must still work. */
static void a_destructor_that_runs_last_forks(void) {
#ifndef __GLIBC__
    check_skip("musl's fork waits for its loader's lock, which its exit holds");
#endif
    CHECK_THAT(check_arguments[0] != NULL, "the plugin's path is missing");
    void *plugin = dlopen(check_arguments[0], RTLD_NOW | RTLD_LOCAL);
    CHECK_THAT(plugin != NULL, "%s", dlerror());
    void (**at_exit)(void) = (void (**)(void))dlsym(plugin, "plugin_at_exit");
    CHECK(at_exit != NULL);
    *at_exit = fork_at_the_end;
    churn_start(4);
    churn_wait(1000);
    exit(1);
}

static void *rest_a_little(void *unused) {
    usleep(100000);
    return unused;
}

/* POSIX: a process ends with its last thread. A thread of the allocator's own does not count. */
static void a_background_thread_does_not_outlive_the_others(void) {
    if (getenv("HZ3_BACKGROUND_THREAD") != NULL) {
        check_thread(rest_a_little, NULL);
        pthread_exit(NULL);
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(setenv("HZ3_BACKGROUND_THREAD", "1", 1) == 0);
        execl("/proc/self/exe", "exit", __func__, (char *)NULL);
        _exit(99);
    }
    int status = 0;
    pid_t ended = 0;
    for (int i = 0; i < 1000 && ended == 0; i++) {
        usleep(10000);
        ended = waitpid(child, &status, WNOHANG);
    }
    if (ended == 0) kill(child, SIGKILL);
    CHECK_THAT(ended == child, "the process lives on without a thread of the program's");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

CHECK_MAIN(CASE(exit_is_called_while_threads_allocate),
           CASE(exit_is_called_by_a_thread_while_others_allocate),
           CASE(the_main_thread_ends_before_the_others),
           CASE(quick_exit_runs_handlers_that_allocate),
           CASE(main_returns_while_detached_threads_allocate),
           CASE(exit_handlers_allocate),
           CASE(a_destructor_that_runs_last_forks),
           CASE(a_background_thread_does_not_outlive_the_others))
