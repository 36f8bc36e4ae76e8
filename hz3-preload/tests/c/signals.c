/*
 * signals.c: threads that allocate while signals arrive at a high rate, and a process that is
 * stopped and continued. The handlers do not allocate; they only interrupt.
 */
#include "check.h"

#include <signal.h>
#include <sys/time.h>

#include "churn.h"

static volatile unsigned long signals_seen;

static void count_signal(int signal) {
    int saved = errno;
    (void)signal;
    __atomic_fetch_add(&signals_seen, 1, __ATOMIC_RELAXED);
    errno = saved;
}

/* Without SA_RESTART: system calls that can be interrupted are. */
static void catch_signal(int signal, int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = count_signal;
    action.sa_flags = flags;
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static void alarms_at_a_high_rate_disturb_nothing(void) {
    catch_signal(SIGALRM, 0);
    churn_start(3);
    const struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    uint64_t random = 1;
    while (signals_seen < 3000) {
        churn_step(&random);
        void *block = calloc(1, 3000000);
        CHECK(block != NULL);
        block = realloc(block, 5000000);
        CHECK(block != NULL);
        free(block);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    churn_stop();
}

static void signals_to_every_allocating_thread_disturb_nothing(void) {
    catch_signal(SIGUSR1, 0);
    churn_start(4);
    for (int round = 0; round < 5000; round++)
        for (int i = 0; i < 4; i++) CHECK(pthread_kill(churn_threads[i], SIGUSR1) == 0);
    churn_wait(1000);
    CHECK(signals_seen > 0);
    churn_stop();
}

static void handlers_on_an_alternate_stack_disturb_nothing(void) {
    static char stack_memory[64 * 1024];
    const stack_t stack = {.ss_sp = stack_memory, .ss_size = sizeof stack_memory};
    CHECK(sigaltstack(&stack, NULL) == 0);
    catch_signal(SIGUSR1, SA_ONSTACK);
    uint64_t random = 1;
    for (int i = 0; i < 20000; i++) {
        churn_step(&random);
        CHECK(raise(SIGUSR1) == 0);
    }
    CHECK(signals_seen == 20000);
    churn_empty_the_slots();
}

static void a_stopped_and_continued_process_goes_on(void) {
    int commands[2];
    CHECK(pipe(commands) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        close(commands[1]);
        churn_start(4);
        while (read(commands[0], &byte, 1) == 1) churn_wait(50);
        churn_stop();
        _exit(0);
    }
    close(commands[0]);
    for (int round = 0; round < 60; round++) {
        int status;
        CHECK(write(commands[1], "x", 1) == 1);
        CHECK(kill(child, SIGSTOP) == 0);
        CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
        CHECK(kill(child, SIGCONT) == 0);
        CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    }
    close(commands[1]);
    check_child_passed(child);
}

CHECK_MAIN(CASE(alarms_at_a_high_rate_disturb_nothing),
           CASE(signals_to_every_allocating_thread_disturb_nothing),
           CASE(handlers_on_an_alternate_stack_disturb_nothing),
           CASE(a_stopped_and_continued_process_goes_on))
