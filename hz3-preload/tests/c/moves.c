/*
 * moves.c: realloc of large blocks that can't grow where they lie. Their pages move, their bytes are not copied: what
 * was never written to gets no memory, and what was is not written again. A page that gets memory is a minor fault.
 */
#include "check.h"

#include <sys/mman.h>
#include <sys/resource.h>

enum { PAGE = 4096 };

static long faults(void) {
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_minflt;
}

/* Marks one byte in every `step` bytes, and the last one. */
static void mark(char *block, size_t from, size_t size, size_t step, char value) {
    for (size_t at = (from + step - 1) / step * step; at < size; at += step) block[at] = value;
    block[size - 1] = value;
}

/* The marks up to `size` of a block that may have been larger. */
static void marked(const char *block, size_t size, size_t step, char value) {
    for (size_t at = 0; at < size; at += step)
        CHECK_THAT(block[at] == value, "byte %zu of %zu is %d, not %d", at, size, block[at], value);
}

static char *resized(void *block, size_t size) {
    char *result = (char *)realloc(block, size);
    CHECK_THAT(result != NULL, "no %zu bytes", size);
    CHECK(check_aligned(result, 16) && malloc_usable_size(result) >= size);
    return result;
}

/* The page faults of eight blocks that grow in turn, a mebibyte at a time, and go. 384 pages are written to; copies would
 * touch 270,000. */
static long faults_of_growth_in_turn(void) {
    char *blocks[8] = {NULL};
    long before = faults();
    size_t size = 0;
    for (size_t next = MIB; next <= 48 * MIB; size = next, next += MIB)
        for (size_t i = 0; i < 8; i++) {
            blocks[i] = resized(blocks[i], next);
            blocks[i][size] = (char)(i + 1);
        }
    long counted = faults() - before;
    for (size_t i = 0; i < 8; i++) {
        marked(blocks[i], 48 * MIB, MIB, (char)(i + 1));
        free(blocks[i]);
    }
    return counted;
}

static void blocks_that_grow_in_turn_move_pages_each_time(void) {
    for (int round = 0; round < 6; round++) {
        long counted = faults_of_growth_in_turn();
        CHECK_THAT(counted < 6000, "round %d: %ld faults", round, counted);
    }
}

static void small_steps_move_pages_too(void) {
    char *blocks[2] = {NULL};
    long before = faults();
    for (size_t size = 64 * KIB; size <= 24 * MIB; size += 64 * KIB)
        for (size_t i = 0; i < 2; i++) {
            blocks[i] = resized(blocks[i], size);
            blocks[i][size - 64 * KIB] = (char)(i + 5);
        }
    long counted = faults() - before;
    for (size_t i = 0; i < 2; i++) {
        marked(blocks[i], 24 * MIB, 64 * KIB, (char)(i + 5));
        free(blocks[i]);
    }
    CHECK_THAT(counted < 6000, "%ld faults", counted);
}

static void a_block_that_shrinks_and_grows_again_keeps_its_pages(void) {
    const struct { size_t small, big; } pairs[] = {{10000000, 40000000}, {15 * MIB, 33 * MIB}, {200000, 50000000},
                                                   {MIB, 32 * MIB}, {16 * MIB, 100 * MIB}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        size_t small = pairs[i].small, big = pairs[i].big;
        char *block = resized(NULL, small);
        memset(block, 7, small);
        long before = faults();
        for (int round = 0; round < 40; round++) {
            block = resized(block, big);
            marked(block, small, PAGE, 7);
            CHECK(block[small - 1] == 7);
            block[big - 1] = 1;
            block = resized(block, small);
        }
        long counted = faults() - before;
        marked(block, small, PAGE, 7);
        free(block);
        CHECK_THAT(counted < 2000, "%zu and %zu bytes: %ld faults", small, big, counted);
    }
}

static void pages_move_once_from_a_run_to_a_mapping(void) {
    for (size_t size = 8 * MIB; size < 32 * MIB; size += 11 * MIB) {
        char *block = resized(NULL, size);
        memset(block, 3, size);
        size_t resident = check_status("VmRSS:");
        long before = faults();
        block = resized(block, 64 * MIB);
        CHECK_THAT(faults() - before < 300, "%zu bytes: %ld faults", size, faults() - before);
        CHECK(check_status("VmRSS:") < resident + 2 * MIB);
        marked(block, size, PAGE, 3);
        free(block);
    }
}

/* What lies behind the block is taken, so that it can't grow in place. */
static void contents_are_kept_from_every_size_to_every_other(void) {
    const size_t sizes[] = {40000, 100000, 128 * KIB - PAGE, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 132 * KIB,
                            300001, MIB - 1, MIB, MIB + PAGE, 1300000, 2 * MIB, 5 * MIB + 17, 16 * MIB - PAGE,
                            16 * MIB, 20 * MIB, 32 * MIB - 2 * PAGE, 32 * MIB - PAGE, 32 * MIB - 1, 32 * MIB,
                            32 * MIB + 1, 40 * MIB, 64 * MIB, 65 * MIB + 3};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    for (size_t i = 0; i < COUNT; i++)
        for (size_t j = 0; j < COUNT; j++) {
            char *block = resized(NULL, sizes[i]), *next = resized(NULL, 64 * KIB);
            char value = (char)(i + j + 1);
            mark(block, 0, sizes[i], 13 * PAGE + 7, value);
            /* Back and forth: the block has become a mapping, or a run again. */
            block = resized(block, sizes[j]);
            size_t kept = sizes[i] < sizes[j] ? sizes[i] : sizes[j];
            marked(block, kept, 13 * PAGE + 7, value);
            if (sizes[i] <= sizes[j]) CHECK(block[sizes[i] - 1] == value);
            block[malloc_usable_size(block) - 1] = value;
            block = resized(block, sizes[i]);
            marked(block, kept, 13 * PAGE + 7, value);
            block = resized(block, kept + kept / 10);
            marked(block, kept, 13 * PAGE + 7, value);
            free(block);
            free(next);
        }
}

static void aligned_blocks_move_too(void) {
    for (size_t alignment = 64; alignment <= 64 * MIB; alignment *= 32) {
        void *block = NULL;
        CHECK(posix_memalign(&block, alignment, 3 * MIB) == 0 && check_aligned(block, alignment));
        void *next = malloc(64 * KIB);
        mark(block, 0, 3 * MIB, PAGE, 9);
        for (size_t size = 3 * MIB; size < 80 * MIB; size += size / 8) {
            block = resized(block, size);
            marked(block, 3 * MIB, PAGE, 9);
        }
        free(block);
        free(next);
    }
}

static void *grow_many(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed * 77 + check_seed();
    enum { BLOCKS = 6 };
    char *blocks[BLOCKS] = {NULL};
    size_t sizes[BLOCKS] = {0};
    for (int round = 0; round < 600; round++) {
        size_t i = check_random(&random) % BLOCKS;
        size_t size = 100000 + check_random(&random) % (check_random(&random) % 8 == 0 ? 40 * MIB : 4 * MIB);
        if (check_random(&random) % 3 != 0) size = sizes[i] + sizes[i] / 8 + 100000;
        if (size > 50 * MIB) size = 100000;
        size_t kept = size < sizes[i] ? size : sizes[i];
        blocks[i] = resized(blocks[i], size);
        marked(blocks[i], kept, 9 * PAGE, (char)(i + 1));
        mark(blocks[i], 0, size, 9 * PAGE, (char)(i + 1));
        sizes[i] = size;
    }
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
    return NULL;
}

static void threads_move_blocks_while_others_fork(void) {
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++) threads[i] = check_thread(grow_many, (void *)i);
    for (int child = 0; child < 20; child++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            char *blocks[3] = {NULL};
            for (size_t size = 100000; size < 4 * MIB; size += 150000)
                for (size_t i = 0; i < 3; i++) {
                    blocks[i] = resized(blocks[i], size);
                    mark(blocks[i], 0, size, PAGE, (char)i);
                    marked(blocks[i], size, PAGE, (char)i);
                }
            for (size_t i = 0; i < 3; i++) free(blocks[i]);
            _exit(0);
        }
        check_child_passed(pid);
        usleep(2000);
    }
    for (size_t i = 0; i < 4; i++) check_join(threads[i]);
}

static void locked_memory_stays_locked(void) {
    char *blocks[3] = {NULL};
    for (size_t i = 0; i < 3; i++) memset(blocks[i] = resized(NULL, MIB), 1, MIB);
    if (mlockall(MCL_CURRENT) != 0) check_skip("mlockall: %s", strerror(errno));
    size_t locked = check_status("VmLck:");
    for (size_t size = 2 * MIB; size < 12 * MIB; size += MIB)
        for (size_t i = 0; i < 3; i++) {
            blocks[i] = resized(blocks[i], size);
            mark(blocks[i], 0, size, PAGE, 1);
        }
    CHECK_THAT(check_status("VmLck:") + 4 * MIB >= locked, "locked: %zu, then %zu", locked, check_status("VmLck:"));
    for (size_t i = 0; i < 3; i++) {
        marked(blocks[i], 11 * MIB, PAGE, 1);
        free(blocks[i]);
    }
}

static size_t mappings(void) {
    static char text[65536];
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    size_t lines = 0;
    for (ssize_t length; (length = read(file, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < length; i++) lines += text[i] == '\n';
    close(file);
    return lines;
}

static void only_so_many_blocks_have_mappings_of_their_own(void) {
    enum { BLOCKS = 9500 };
    static char *blocks[BLOCKS];
    size_t before = mappings();
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = resized(NULL, 128 * KIB);
        blocks[i][0] = blocks[i][128 * KIB - 1] = (char)i;
    }
    for (size_t i = 0; i < BLOCKS; i++) blocks[i] = resized(blocks[i], 160 * KIB);
    size_t more = mappings() - before;
    for (size_t i = 0; i < BLOCKS; i++) {
        CHECK(blocks[i][0] == (char)i && blocks[i][128 * KIB - 1] == (char)i);
        free(blocks[i]);
    }
    /* 8,192 mappings, and what guards may split off. */
    CHECK_THAT(more < 2 * 8192 + 500, "%zu more mappings", more);
    CHECK(mappings() < before + 500);
}

/* The page faults of three blocks that grow from `size` to `end` bytes, all written, and go. */
static long faults_of_written_blocks(size_t size, size_t end, size_t step, size_t factor) {
    char *blocks[3] = {NULL};
    long before = faults();
    for (; size < end; size = size * factor + step)
        for (size_t i = 0; i < 3; i++) {
            blocks[i] = resized(blocks[i], size);
            mark(blocks[i], 0, size, PAGE, 2);
        }
    for (size_t i = 0; i < 3; i++) free(blocks[i]);
    return faults() - before;
}

static void blocks_that_come_and_go_keep_their_memory_warm(void) {
    if (check_is_hardened()) check_skip("the hardened lane gives every freed page back");
    long steps = 0, doubled = 0;
    for (int round = 0; round < 8; round++) steps = faults_of_written_blocks(100000, 900000, 50000, 1);
    for (int round = 0; round < 12; round++) doubled = faults_of_written_blocks(64 * KIB, 4 * MIB + 1, 0, 2);
    CHECK_THAT(steps < 200 && doubled < 200, "%ld, %ld faults in the last round", steps, doubled);
}

/* Not written to, as sparse tables are. In the hardened lane each guard takes a page table. */
static void a_hundred_thousand_mappings_are_told_apart(void) {
    enum { BLOCKS = 100000 };
    static char *blocks[BLOCKS];
    size_t count = 0, most = check_is_hardened() ? BLOCKS / 5 : BLOCKS;
    while (count < most && (blocks[count] = (char *)malloc(128 * MIB + count % 3 * PAGE)) != NULL) count++;
    CHECK_THAT(count > 1000, "only %zu blocks", count);
    CHECK(mallinfo2().hblks >= count);
    uint64_t random = check_seed();
    for (size_t i = count; i > 1; i--) {
        size_t other = check_random(&random) % i;
        char *block = blocks[i - 1];
        blocks[i - 1] = blocks[other];
        blocks[other] = block;
    }
    for (size_t i = 0; i < count; i++) {
        size_t usable = malloc_usable_size(blocks[i]);
        CHECK_THAT(usable >= 128 * MIB && usable <= 128 * MIB + 2 * PAGE, "%zu bytes", usable);
        if (i % 1000 == 0) {
            blocks[i][5] = (char)i;
            blocks[i] = resized(blocks[i], 129 * MIB);
            CHECK(blocks[i][5] == (char)i);
        }
    }
    size_t before = mallinfo2().hblks;
    for (size_t i = 0; i < count; i++) free(blocks[i]);
    CHECK_THAT(mallinfo2().hblks == before - count, "%zu of %zu are left", mallinfo2().hblks, before);
}

CHECK_MAIN(CASE(blocks_that_grow_in_turn_move_pages_each_time),
           CASE(small_steps_move_pages_too),
           CASE(a_block_that_shrinks_and_grows_again_keeps_its_pages), CASE(pages_move_once_from_a_run_to_a_mapping),
           CASE(contents_are_kept_from_every_size_to_every_other), CASE(aligned_blocks_move_too),
           CASE(threads_move_blocks_while_others_fork), CASE(locked_memory_stays_locked),
           CASE(only_so_many_blocks_have_mappings_of_their_own), CASE(blocks_that_come_and_go_keep_their_memory_warm),
           CASE(a_hundred_thousand_mappings_are_told_apart))
