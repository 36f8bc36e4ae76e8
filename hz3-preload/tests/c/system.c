/*
 * system.c: a system that answers advice without carrying it out, knows less than the newest kernel, or refuses a
 * mapping now and then. SYSTEM says which; the program's own functions stand in the place of libc's from the first
 * call on.
 */
#include "check.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define IGNORES_ADVICE 1   /* all of it, as qemu-user did before version 7 */
#define IGNORES_GUARDS 2   /* what is newer than the system, as qemu-user does */
#define KNOWS_NO_GUARDS 3  /* Linux before 6.13 */
#define REFUSES_ONCE 4     /* a mapping, where the same is granted a moment later */
#define HAS_UNKNOWN_PAGES 5
#ifndef SYSTEM
#define SYSTEM IGNORES_ADVICE
#endif

enum { DONTNEED = 4, DONTNEED_LOCKED = 24, GUARD_INSTALL = 102, GUARD_REMOVE = 103 };

int madvise(void *start, size_t bytes, int advice) {
    if (SYSTEM == IGNORES_ADVICE) return 0;
    if (SYSTEM == IGNORES_GUARDS && advice > 4) return 0;
    if (SYSTEM == KNOWS_NO_GUARDS && advice >= GUARD_INSTALL) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_madvise, start, bytes, advice);
}

/* Volatile: to the compiler malloc calls nothing of this file. */
static volatile int refusals;

void *mmap(void *start, size_t bytes, int rights, int flags, int file, off_t offset) {
    if (refusals > 0 && rights == (PROT_READ | PROT_WRITE) && bytes > 64 * MIB) {
        refusals--;
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, start, bytes, rights, flags, file, offset);
}

#if SYSTEM == HAS_UNKNOWN_PAGES
unsigned long getauxval(unsigned long type) { return type == AT_PAGESZ ? 131072 : 0; }
#endif

/* ---- advice -------------------------------------------------------------------------------- */

static void dirty_then_zeroed(size_t size, size_t count) {
    static char *blocks[20000];
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < count; i++) {
            blocks[i] = (char *)malloc(size);
            CHECK(blocks[i] != NULL);
            memset(blocks[i], 0x5a, size);
        }
        for (size_t i = 0; i < count; i++) free(blocks[i]);
        if (round > 0) malloc_trim(0);
        for (size_t i = 0; i < count; i++) {
            blocks[i] = (char *)calloc(1, size);
            CHECK(blocks[i] != NULL);
            check_zeroed(blocks[i], size);
        }
        for (size_t i = 0; i < count; i++) free(blocks[i]);
    }
}

static void *zeroed_in_a_thread(void *unused) {
    dirty_then_zeroed(30000, 300);
    return unused;
}

static void blocks_of_calloc_are_zero(void) {
    const struct {
        size_t size, count;
    } steps[] = {{48, 20000}, {1500, 4000}, {9000, 2000}, {32000, 500}, {200000, 200}, {3 * MIB, 8}, {40 * MIB, 2}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) dirty_then_zeroed(steps[i].size, steps[i].count);
    check_join(check_thread(zeroed_in_a_thread, NULL));
    pid_t child = fork();
    if (child == 0) {
        dirty_then_zeroed(200000, 100);
        _exit(0);
    }
    check_child_passed(child);
}

/* ---- guards -------------------------------------------------------------------------------- */

static int faults(const char *byte) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    ssize_t written = write(ends[1], byte, 1);
    int error = errno;
    close(ends[0]);
    close(ends[1]);
    return written < 0 && error == EFAULT;
}

/* Only the hardened lane has guards. */
static void a_freed_large_block_and_the_end_of_a_live_one_fault(void) {
    char *live = (char *)malloc(200000), *freed = (char *)malloc(300000);
    CHECK(live != NULL && freed != NULL);
    memset(live, 1, 200000);
    memset(freed, 1, 300000);
    char *end = (char *)(((uintptr_t)live + 200000 + 4095) & ~(uintptr_t)4095);
    CHECK(!faults(end - 1) && faults(end) && !faults(freed));
    free(freed);
    CHECK(faults(freed) && faults(freed + 200000));
    free(live);
    CHECK(faults(live));
    blocks_of_calloc_are_zero();
}

static size_t mappings(void) {
    static char text[65536];
    size_t lines = 0;
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    for (ssize_t length; (length = read(file, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < length; i++) lines += text[i] == '\n';
    close(file);
    return lines;
}

/* Spans, large blocks and direct mappings, each with a guard of its own, come and go. */
static void guards_leave_three_quarters_of_the_mappings(void) {
    enum { SMALL = 80000, LARGE = 3000 };
    static void *small[SMALL], *large[LARGE];
    size_t most = check_most_mappings(70000), before = mappings();
    for (int i = 0; i < 9000; i++) {
        /* More than there may be at a time. */
        char *direct = (char *)malloc(33 * MIB);
        CHECK(direct != NULL);
        free(direct);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < SMALL; i++) CHECK((small[i] = malloc(15 * KIB)) != NULL);
        for (int i = 0; i < LARGE; i++) CHECK((large[i] = malloc(40 * KIB)) != NULL);
        size_t now = mappings() - before;
        CHECK_THAT(now < most / 4 + 100, "round %d: %zu of %zu mappings", round, now, most);
        CHECK_THAT(now > most / 5, "round %d: only %zu mappings: few guards", round, now);
        for (int i = 0; i < SMALL; i++) free(small[i]);
        for (int i = 0; i < LARGE; i++) free(large[i]);
        malloc_trim(0);
    }
}

/* ---- mappings ------------------------------------------------------------------------------ */

/* The second request for so much is granted, and an arena for it: its page tags are 2 MiB for each GiB. */
static void a_large_request_that_is_refused_costs_nothing(void) {
    free(malloc(1));
    for (int i = 0; i < 4; i++) {
        size_t before = check_status("VmRSS:");
        refusals = 1;
        char *block = (char *)malloc(5 * GIB);
        CHECK(refusals == 0);
        size_t after = check_status("VmRSS:");
        CHECK_THAT(after < before + 3 * MIB, "%zu bytes resident, before %zu", after, before);
        if (block != NULL) block[0] = block[5 * GIB - 1] = 1;
        free(block);
    }
    /* No machine has it. */
    CHECK(malloc(16384 * GIB) == NULL && errno == ENOMEM);
}

static void ordinary_work_gets_done(void) { dirty_then_zeroed(1000, 1000); }

CHECK_MAIN(CASE(blocks_of_calloc_are_zero), CASE(a_freed_large_block_and_the_end_of_a_live_one_fault),
           CASE(guards_leave_three_quarters_of_the_mappings), CASE(a_large_request_that_is_refused_costs_nothing),
           CASE(ordinary_work_gets_done))
