/*
 * filters.c: a filter of system calls (seccomp(2)) that refuses one of them, or kills for it, once the process runs.
 * The allocator goes on: blocks of all sizes, threads that were there before, a child, the exit.
 */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define ANY (-1)

/* Installs a filter for all threads: `verdict` for each of the `count` calls with the third argument `third`. */
static void install(uint32_t verdict, const int (*calls)[2], size_t count) {
    struct sock_filter code[200];
    size_t used = 0;
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define UNLESS_EQUAL(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), 0, (skip))
    for (size_t i = 0; i < count; i++) {
        CHECK(used + 8 < sizeof code / sizeof code[0]);
        code[used++] = (struct sock_filter)LOAD(nr);
        code[used++] = (struct sock_filter)UNLESS_EQUAL(calls[i][0], calls[i][1] == ANY ? 1 : 3);
        if (calls[i][1] != ANY) {
            code[used++] = (struct sock_filter)LOAD(args[2]);
            code[used++] = (struct sock_filter)UNLESS_EQUAL(calls[i][1], 1);
        }
        code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, verdict);
    }
    code[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {(unsigned short)used, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        check_skip("no filters of system calls: %s", strerror(errno));
}

static void take_fill_and_free(size_t size, size_t count) {
    enum { MOST = 10000 };
    char **blocks = (char **)malloc(MOST * sizeof *blocks);
    CHECK(blocks != NULL && count <= MOST);
    for (size_t i = 0; i < count; i++) {
        errno = 0;
        blocks[i] = (char *)(i % 3 == 0 ? calloc(1, size) : malloc(size));
        CHECK_THAT(blocks[i] != NULL, "block %zu of %zu bytes: %s", i, size, strerror(errno));
        if (i % 3 == 0) check_zeroed(blocks[i], size < 100000 ? size : 100000);
        check_fill(blocks[i], size < 20000 ? size : 20000, i);
    }
    for (size_t i = 0; i < count; i++) {
        check_filled(blocks[i], size < 20000 ? size : 20000, i);
        if (i % 7 == 0) {
            blocks[i] = (char *)realloc(blocks[i], size * 2);
            CHECK(blocks[i] != NULL);
            check_filled(blocks[i], size < 20000 ? size : 20000, i);
        }
        free(blocks[i]);
    }
    free(blocks);
}

static void *work(void *unused) {
    for (int round = 0; round < 2; round++) {
        take_fill_and_free(40, 9000);
        take_fill_and_free(700, 3000);
        take_fill_and_free(14000, 800);
        take_fill_and_free(50000, 150);
        take_fill_and_free(2 * MIB, 5);
        take_fill_and_free(40 * MIB, 2);
        malloc_trim(0);
    }
    return unused;
}

static int gate[2];

static void *work_once_filtered(void *unused) {
    char byte;
    CHECK(read(gate[0], &byte, 1) == 1);
    return work(unused);
}

/* More than a first arena holds, with little memory: mappings of arenas that come later. */
static void outgrow_the_first_arena(void) {
    enum { BLOCKS = 700 };
    static char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = (char *)malloc(30 * MIB);
        CHECK_THAT(blocks[i] != NULL, "block %d of 30 MiB", i);
        blocks[i][0] = blocks[i][30 * MIB - 1] = 1;
    }
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
}

/* Runs everything in a child with a filter; the exit too. */
static void works_under(uint32_t verdict, const int (*calls)[2], size_t count, const char *what) {
    pid_t child = fork();
    if (child == 0) {
        pthread_t threads[3];
        CHECK(pipe(gate) == 0);
        for (int i = 0; i < 3; i++) threads[i] = check_thread(work_once_filtered, NULL);
        take_fill_and_free(100, 1000);
        install(verdict, calls, count);
        CHECK(write(gate[1], "abc", 3) == 3);
        work(NULL);
        for (int i = 0; i < 3; i++) check_join(threads[i]);
        outgrow_the_first_arena();
        pid_t grandchild = fork();
        if (grandchild == 0) {
            work(NULL);
            exit(0);
        }
        check_child_passed(grandchild);
        exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHECK_SKIPPED) _exit(CHECK_SKIPPED);
    CHECK_THAT(status == 0, "%s: status %#x", what, (unsigned)status);
}

#define WORKS_WITHOUT(error, call, third)                                                                   \
    do {                                                                                                    \
        const int calls[][2] = {{(call), (third)}};                                                         \
        works_under(SECCOMP_RET_ERRNO | (error), calls, 1, #call " " #third " " #error);                    \
    } while (0)

static void mprotect_may_be_refused(void) {
    WORKS_WITHOUT(EPERM, SYS_mprotect, ANY);
    WORKS_WITHOUT(EACCES, SYS_mprotect, ANY);
    WORKS_WITHOUT(ENOSYS, SYS_mprotect, ANY);
}

static void advice_may_be_refused(void) {
    WORKS_WITHOUT(EPERM, SYS_madvise, ANY);
    WORKS_WITHOUT(EINVAL, SYS_madvise, ANY);
    WORKS_WITHOUT(ENOSYS, SYS_madvise, ANY);
}

/* MADV_DONTNEED, MADV_POPULATE_WRITE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE. */
static void kinds_of_advice_may_be_refused(void) {
    WORKS_WITHOUT(EPERM, SYS_madvise, 4);
    WORKS_WITHOUT(EINVAL, SYS_madvise, 23);
    WORKS_WITHOUT(EPERM, SYS_madvise, 23);
    WORKS_WITHOUT(0, SYS_madvise, 23);
    WORKS_WITHOUT(EINVAL, SYS_madvise, 102);
    WORKS_WITHOUT(EPERM, SYS_madvise, 102);
    WORKS_WITHOUT(EPERM, SYS_madvise, 103);
}

static void mappings_may_not_be_changed(void) {
    WORKS_WITHOUT(EPERM, SYS_munmap, ANY);
    WORKS_WITHOUT(EPERM, SYS_mremap, ANY);
    WORKS_WITHOUT(ENOSYS, SYS_mremap, ANY);
}

static void others_may_be_refused(void) {
    WORKS_WITHOUT(ENOSYS, SYS_membarrier, ANY);
    WORKS_WITHOUT(ENOSYS, SYS_getrandom, ANY);
    WORKS_WITHOUT(EPERM, SYS_sched_yield, ANY);
    WORKS_WITHOUT(ENOSYS, SYS_clock_gettime, ANY);
    WORKS_WITHOUT(EPERM, SYS_prlimit64, ANY);
    WORKS_WITHOUT(EPERM, SYS_openat, ANY);
    WORKS_WITHOUT(EPERM, SYS_prctl, ANY);
    WORKS_WITHOUT(EPERM, SYS_nanosleep, ANY);
}

/* Calls that a process has no need of, and advice that it has not given before. */
static void some_calls_kill(void) {
    int calls[40][2];
    size_t count = 0;
    for (int advice = 0; advice < 27; advice++) {
        // Asked for at the start.
        if (advice == MADV_DONTNEED || advice == 20 /* MADV_COLD */ || advice == 23 /* MADV_POPULATE_WRITE */) continue;
        calls[count][0] = SYS_madvise;
        calls[count++][1] = advice;
    }
    /* Not membarrier, asked for at the start. */
    const int others[] = {SYS_nanosleep, SYS_getrandom, SYS_mincore, SYS_openat,
                          SYS_readlink,  SYS_prctl,     SYS_sysinfo, SYS_uname};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        calls[count][0] = others[i];
        calls[count++][1] = ANY;
    }
    works_under(SECCOMP_RET_KILL_PROCESS, calls, count, "killed");
}

CHECK_MAIN(CASE(mprotect_may_be_refused), CASE(advice_may_be_refused), CASE(kinds_of_advice_may_be_refused),
           CASE(mappings_may_not_be_changed), CASE(others_may_be_refused), CASE(some_calls_kill))
