/*
 * options.c: what the environment variables HZ3_PURGE_DELAY_MS, HZ3_ARENA_SIZE, HZ3_THP and
 * HZ3_BACKGROUND_THREAD change, seen from inside the process. The caller sets them; each case says which
 * setting it is for.
 */
#include "check.h"

#include <signal.h>
#include <sys/auxv.h>
#include <time.h>

#define SMALL_BYTES ((size_t)1000)
#define LARGE_BYTES MIB
#define SMALL_BLOCKS (64 * MIB / KIB)
#define LARGE_BLOCKS ((size_t)64)
/* What caches and depots may keep of it, with room for the kernel's own inexact count. */
#define KEPT (16 * MIB)

static size_t resident(void) { return check_status("VmRSS:"); }

static uint64_t now_ms(void) {
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* When fill_and_free began to free. */
static uint64_t freeing_since;

/*
 * Writes 64 MiB in small blocks and 64 MiB in large ones, and frees them all; returns what was resident before it
 * was called for the first time, in a child before its parent did so.
 */
static size_t fill_and_free(void) {
    static void *small[SMALL_BLOCKS], *large[LARGE_BLOCKS];
    static size_t before;
    if (before == 0) {
        memset(small, 1, sizeof small);
        free(malloc(SMALL_BYTES));
        before = resident();
    }
    for (size_t i = 0; i < SMALL_BLOCKS; i++) {
        CHECK((small[i] = malloc(SMALL_BYTES)) != NULL);
        memset(small[i], 1, SMALL_BYTES);
    }
    for (size_t i = 0; i < LARGE_BLOCKS; i++) {
        CHECK((large[i] = malloc(LARGE_BYTES)) != NULL);
        memset(large[i], 1, LARGE_BYTES);
    }
    size_t peak = resident();
    CHECK_THAT(peak > before + 120 * MIB, "128 MiB written, %zu bytes resident, %zu before", peak, before);
    freeing_since = now_ms();
    for (size_t i = 0; i < SMALL_BLOCKS; i++) free(small[i]);
    for (size_t i = 0; i < LARGE_BLOCKS; i++) free(large[i]);
    return before;
}

static void check_gone(size_t before, const char *when) {
    size_t now = resident();
    CHECK_THAT(now < before + KEPT, "%s, %zu bytes are resident; before anything was taken, %zu", when, now, before);
}

static void check_kept(size_t before, const char *when) {
    size_t now = resident();
    CHECK_THAT(now > before + 100 * MIB, "%s, only %zu bytes are resident; before, %zu", when, now, before);
}

/* Allocates and frees a little now and then. */
static void stay_active(uint64_t milliseconds) {
    for (uint64_t end = now_ms() + milliseconds; now_ms() < end; usleep(5000))
        for (size_t size = 100; size < 200 * KIB; size *= 4) free(check_opaque(malloc(size)));
}

/* HZ3_PURGE_DELAY_MS=0 */
static void freed_memory_goes_back_at_once(void) {
    for (int round = 0; round < 3; round++) check_gone(fill_and_free(), "right after the last free");
}

/* HZ3_PURGE_DELAY_MS=-1 */
static void freed_memory_is_kept_until_a_trim(void) {
    size_t before = fill_and_free();
    stay_active(2500);
    check_kept(before, "after 2.5 s of activity");
    malloc_trim(0);
    check_gone(before, "after a trim");
}

/* Nothing set, or a shorter delay. */
static void freed_memory_goes_back_after_a_second(void) {
    size_t before = fill_and_free();
    uint64_t start = freeing_since;
    while (resident() > before + KEPT) {
        CHECK_THAT(now_ms() < start + 30000, "after 30 s of activity %zu bytes are resident; before, %zu", resident(),
                   before);
        stay_active(50);
    }
    if (getenv("HZ3_PURGE_DELAY_MS") == NULL)
        CHECK_THAT(now_ms() > start + 500, "it took only %d ms", (int)(now_ms() - start));
}

/* SigBlk of a /proc/.../status file: signal n is bit n - 1. */
static uint64_t blocked_signals(const char *path) { return check_status_number(path, "\nSigBlk:", 16); }

/* The signals that the thread called hz3-background blocks, as /proc shows them. */
static uint64_t blocked_by_the_background_thread;

/* Whether a thread of this process is called hz3-background. */
static int has_background_thread(void) {
    char status[300];
    int found = check_threads_called("hz3-background", status);
    CHECK(found <= 1);
    if (found) blocked_by_the_background_thread = blocked_signals(status);
    return found;
}

static void wait_for_the_background_thread(void) {
    for (uint64_t end = now_ms() + 30000; !has_background_thread(); usleep(10000))
        CHECK_THAT(now_ms() < end, "no thread is called hz3-background");
}

/* Sleeps, and neither allocates nor frees, until the memory has gone back. */
static void shrink_while_idle(void) {
    size_t before = fill_and_free();
    for (uint64_t end = now_ms() + 30000; resident() > before + KEPT; usleep(50000))
        CHECK_THAT(now_ms() < end, "after 30 s of rest %zu bytes are resident; before, %zu", resident(), before);
}

/* HZ3_BACKGROUND_THREAD=1, with any delay */
static void an_idle_process_shrinks(void) {
    wait_for_the_background_thread();
    shrink_while_idle();
    shrink_while_idle();
}

/* The same. SIGKILL and SIGSTOP can't be blocked; 32 and 33 are the C library's own, and in musl 34. */
static void every_signal_is_blocked_in_it(void) {
    for (int signal = 1; signal <= 64; signal++) {
        if (signal == SIGKILL || signal == SIGSTOP || signal == 32 || signal == 33) continue;
#ifndef __GLIBC__
        if (signal == 34) continue;
#endif
        CHECK_THAT(blocked_by_the_background_thread >> (signal - 1) & 1, "signal %d is not blocked: SigBlk is %llx", signal,
                   (unsigned long long)blocked_by_the_background_thread);
    }
}

static void the_background_thread_blocks_every_signal(void) {
    wait_for_the_background_thread();
    every_signal_is_blocked_in_it();
    CHECK(blocked_signals("/proc/self/status") != blocked_by_the_background_thread);
    pid_t child = fork();
    if (child == 0) {
        wait_for_the_background_thread();
        every_signal_is_blocked_in_it();
        CHECK(blocked_signals("/proc/self/status") != blocked_by_the_background_thread);
        _exit(0);
    }
    check_child_passed(child);
}

/* The same */
static void a_forked_child_has_a_background_thread_of_its_own(void) {
    wait_for_the_background_thread();
    fill_and_free();
    pid_t child = fork();
    if (child == 0) {
        wait_for_the_background_thread();
        shrink_while_idle();
        pid_t grandchild = fork();
        if (grandchild == 0) {
            wait_for_the_background_thread();
            _exit(0);
        }
        check_child_passed(grandchild);
        _exit(0);
    }
    check_child_passed(child);
    CHECK(has_background_thread());
}

/* A child of a process with one thread has one thread too. */
static void check_no_background_thread(void) {
    CHECK(!has_background_thread());
    pid_t child = fork();
    if (child == 0) {
        usleep(100000);
        _exit(has_background_thread());
    }
    check_child_passed(child);
}

/* Purges are off, or late. */
static void an_idle_process_has_no_other_thread_and_keeps_its_memory(void) {
    size_t before = fill_and_free();
    usleep(2500000);
    check_kept(before, "after 2.5 s of rest");
    check_no_background_thread();
}

/* Nothing set: whoever frees keeps to a bound of 32 MiB. */
static void an_idle_process_has_no_other_thread_and_keeps_little(void) {
    size_t before = fill_and_free(), now = resident();
    CHECK_THAT(now < before + KEPT + 40 * MIB, "after the last free %zu bytes are resident; before, %zu", now, before);
    check_no_background_thread();
}

/* ---- mappings ---------------------------------------------------------------------------- */

static char maps[8 << 20];

static void read_maps(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_THAT(file >= 0, "%s: %s", path, strerror(errno));
    size_t used = 0;
    for (ssize_t more; (more = read(file, maps + used, sizeof maps - 1 - used)) > 0;) used += (size_t)more;
    close(file);
    CHECK(used < sizeof maps - 1);
    maps[used] = '\0';
}

struct mapping {
    uintptr_t start, end;
    char rights[5];
};

/* The mapping whose line begins at `line`; 0 where the line is another. */
static int mapping_at(const char *line, struct mapping *mapping) {
    return sscanf(line, "%lx-%lx %4s", &mapping->start, &mapping->end, mapping->rights) == 3;
}

static const char *next_line(const char *line) {
    const char *end = strchr(line, '\n');
    return end == NULL ? line + strlen(line) : end + 1;
}

/* The line of the mapping that `address` lies in. */
static const char *line_of(const void *address) {
    struct mapping mapping;
    for (const char *line = maps; *line != '\0'; line = next_line(line))
        if (mapping_at(line, &mapping) && mapping.start <= (uintptr_t)address && (uintptr_t)address < mapping.end)
            return line;
    check_fail(__FILE__, __LINE__, "%p lies in no mapping", address);
}

/* HZ3_ARENA_SIZE: the argument, in bytes. The first window reaches over sixteen times as much, and nothing is reserved. */
static void the_first_arena_has_the_size_asked_for(void) {
    CHECK(check_arguments[0] != NULL);
    const size_t piece = 20 * MIB, most = 20 * GIB, reach = strtoull(check_arguments[0], NULL, 10) * 16;
    char *first = (char *)malloc(piece);
    CHECK(first != NULL);
    read_maps("/proc/self/maps");
    struct mapping used, behind;
    const char *line = line_of(first);
    CHECK(mapping_at(line, &used) && strcmp(used.rights, "rw-p") == 0);
    CHECK(!mapping_at(next_line(line), &behind) || behind.start != used.end || strcmp(behind.rights, "---p") != 0);
    size_t taken = piece;
    for (; taken < most && taken < reach + GIB; taken += piece) {
        char *block = (char *)malloc(piece);
        CHECK(block != NULL);
        if (block < first || (size_t)(block - first) > reach) break;
    }
    CHECK_THAT(taken <= reach, "%zu bytes in a window of %zu", taken, reach);
    CHECK_THAT(taken >= most || taken + 300 * MIB >= reach, "only %zu bytes in a window of %zu", taken, reach);
}

/* HZ3_ARENA_SIZE=4M: further arenas follow */
static void two_hundred_mib_live_in_many_small_arenas(void) {
    static void *blocks[400000];
    static size_t sizes[400000];
    uint64_t random = 11;
    for (int round = 0; round < 2; round++) {
        size_t count = 0, bytes = 0;
        for (; bytes < 200 * MIB; count++) {
            CHECK(count < sizeof blocks / sizeof blocks[0]);
            sizes[count] = check_random(&random) % (count % 100 == 0 ? 6 * MIB : count % 10 == 0 ? 30 * KIB : KIB);
            CHECK_THAT((blocks[count] = malloc(sizes[count])) != NULL, "%zu bytes live, then none more", bytes);
            check_fill(blocks[count], sizes[count], count);
            bytes += sizes[count];
        }
        for (size_t i = 0; i < count; i++) {
            size_t size = sizes[i] / 2;
            if (i % 7 == 0) CHECK((blocks[i] = realloc(blocks[i], size + 1)) != NULL);
            check_filled(blocks[i], i % 7 == 0 ? size / 8 * 8 : sizes[i], i);
            free(blocks[i]);
        }
    }
}

/* HZ3_THP=1: "hg"; HZ3_THP=0: "nh"; nothing set: "-" */
static void memory_is_advised_as_asked(void) {
    const char *wanted = check_arguments[0];
    CHECK(wanted != NULL);
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK) != 0) check_skip("no transparent huge pages here");
    const size_t sizes[] = {100, 10000, 300000, 60 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *block = malloc(sizes[i]);
        CHECK(block != NULL);
        memset(block, 1, sizes[i]);
        read_maps("/proc/self/smaps");
        const char *flags = strstr(line_of(block), "VmFlags:");
        CHECK(flags != NULL);
        char text[200] = "";
        snprintf(text, sizeof text, "%.*s ", (int)strcspn(flags, "\n"), flags);
        int always = strstr(text, " hg ") != NULL, never = strstr(text, " nh ") != NULL;
        CHECK_THAT(always == (strcmp(wanted, "hg") == 0) && never == (strcmp(wanted, "nh") == 0),
                   "a block of %zu bytes: %s, not %s", sizes[i], text, wanted);
        free(block);
    }
}

/* ---- the environment --------------------------------------------------------------------- */

/* Any setting, a wrong one included */
static void ordinary_work_gets_done(void) {
    uint64_t random = 3;
    for (int i = 0; i < 2000; i++) {
        size_t size = check_random_size(&random);
        void *block = malloc(size);
        CHECK(block != NULL);
        check_fill(block, size, 1);
        check_filled(block, size, 1);
        free(block);
    }
}

/* As a set-user-id program */
static void ordinary_work_gets_done_with_another_users_rights(void) {
    if (getauxval(AT_SECURE) == 0) check_skip("AT_SECURE is not set: is this file system mounted nosuid?");
    ordinary_work_gets_done();
}

CHECK_MAIN(CASE(freed_memory_goes_back_at_once),
           CASE(freed_memory_is_kept_until_a_trim),
           CASE(freed_memory_goes_back_after_a_second),
           CASE(an_idle_process_shrinks),
           CASE(the_background_thread_blocks_every_signal),
           CASE(a_forked_child_has_a_background_thread_of_its_own),
           CASE(an_idle_process_has_no_other_thread_and_keeps_its_memory),
           CASE(an_idle_process_has_no_other_thread_and_keeps_little),
           CASE(the_first_arena_has_the_size_asked_for),
           CASE(two_hundred_mib_live_in_many_small_arenas),
           CASE(memory_is_advised_as_asked),
           CASE(ordinary_work_gets_done),
           CASE(ordinary_work_gets_done_with_another_users_rights))
