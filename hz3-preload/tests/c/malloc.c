/*
 * malloc.c: malloc and free: sizes from zero to the impossible, alignment, errno, no overlap, and
 * freed memory that is used again.
 */
#include "check.h"
#include "sizes.h"
#include <sys/sysinfo.h>

static void malloc_of_zero_returns_distinct_blocks(void) {
    enum { COUNT = 1000 };
    void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = malloc(check_size(0));
        CHECK(blocks[i] != NULL);
        CHECK(check_aligned(blocks[i], 16));
        for (int j = 0; j < i; j++) CHECK(blocks[j] != blocks[i]);
    }
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
}

static void malloc_beyond_every_limit_fails_with_enomem(void) {
    const size_t top = PTRDIFF_MAX;
    const size_t below[] = {0,    1,    7,    8,     15,    16,     31,      63,      64,      127,
                            4095, 4096, 4097, 65535, 65536, 1 << 20, 1 << 21, 1 << 24, 1 << 30};
    for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
        const size_t sizes[] = {SIZE_MAX - below[i], top + 1 + below[i], top - below[i]};
        for (size_t j = 0; j < 3; j++) {
            errno = 0;
            CHECK_THAT(malloc(check_size(sizes[j])) == NULL, "malloc(%zu) succeeded", sizes[j]);
            CHECK_THAT(errno == ENOMEM, "malloc(%zu): errno is %d", sizes[j], errno);
        }
    }
    /* No process has this much address space, so these fail as well. */
    for (int shift = 47; shift < 63; shift++) {
        errno = 0;
        CHECK(malloc(check_size((size_t)1 << shift)) == NULL);
        CHECK(errno == ENOMEM);
    }
    void *block = malloc(100);
    CHECK(block != NULL);
    free(block);
}

/* By default the kernel refuses, once and for all, what exceeds memory and swap together; glibc's
 * malloc passes that on. A program that tries how much it gets relies on it. */
static void what_exceeds_the_machine_is_refused_as_the_kernel_would(void) {
    FILE *mode = fopen("/proc/sys/vm/overcommit_memory", "r");
    int is_default = mode != NULL && getc(mode) == '0';
    if (mode != NULL) fclose(mode);
    if (!is_default) check_skip("vm.overcommit_memory is not 0");
    struct sysinfo machine;
    CHECK(sysinfo(&machine) == 0);
    size_t all = (machine.totalram + machine.totalswap) * (size_t)machine.mem_unit;
    char *block = malloc(100 * MIB);
    CHECK(block != NULL);
    block[0] = 'x';
    /* A block that grows is judged by what it grows by. */
    for (size_t size = all + 200 * MIB; size < (size_t)1 << 45; size *= 2) {
        errno = 0;
        CHECK_THAT(malloc(check_size(size)) == NULL, "malloc(%zu) succeeded", size);
        CHECK_THAT(errno == ENOMEM, "malloc(%zu): errno is %d", size, errno);
        CHECK(calloc(2, check_size(size / 2)) == NULL);
        CHECK(realloc(block, check_size(size)) == NULL && block[0] == 'x');
        CHECK(aligned_alloc(4 * MIB, check_size(size)) == NULL);
    }
    /* More than that in blocks that the machine could hold, none of them touched. */
    void *blocks[4];
    for (int i = 0; i < 4; i++) CHECK((blocks[i] = malloc(check_size(all / 2))) != NULL);
    for (int i = 0; i < 4; i++) free(blocks[i]);
    free(block);
}

static void every_block_is_aligned_to_16_bytes(void) {
    static struct sizes sizes;
    sizes_up_to(&sizes, 8 * MIB);
    for (size_t i = 0; i < sizes.count; i++) {
        void *blocks[4];
        for (int j = 0; j < 4; j++) {
            blocks[j] = malloc(sizes.of[i]);
            CHECK(blocks[j] != NULL);
            CHECK_THAT(check_aligned(blocks[j], 16), "malloc(%zu) gave %p", sizes.of[i], blocks[j]);
        }
        for (int j = 0; j < 4; j++) free(blocks[j]);
    }
}

static void live_blocks_of_every_size_do_not_overlap(void) {
    static struct sizes sizes;
    static void *blocks[SIZES_CAPACITY];
    sizes_up_to(&sizes, 2 * MIB);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizes.count; i++) {
            blocks[i] = malloc(sizes.of[i]);
            CHECK(blocks[i] != NULL);
            check_fill(blocks[i], sizes.of[i], i);
        }
        /* Every third one goes and comes back, so that freed places are handed out again. */
        for (size_t i = 0; i < sizes.count; i += 3) {
            check_filled(blocks[i], sizes.of[i], i);
            free(blocks[i]);
        }
        for (size_t i = 0; i < sizes.count; i += 3) {
            blocks[i] = malloc(sizes.of[i]);
            CHECK(blocks[i] != NULL);
            check_fill(blocks[i], sizes.of[i], i);
        }
        for (size_t i = 0; i < sizes.count; i++) {
            check_filled(blocks[i], sizes.of[i], i);
            free(blocks[i]);
        }
    }
}

static void two_hundred_thousand_small_blocks_do_not_overlap(void) {
    enum { COUNT = 200000 };
    static struct {
        unsigned char *block;
        size_t size;
    } live[COUNT];
    uint64_t random = check_seed();
    for (size_t i = 0; i < COUNT; i++) {
        live[i].size = check_random(&random) % 300;
        live[i].block = (unsigned char *)malloc(live[i].size);
        CHECK(live[i].block != NULL);
        check_fill(live[i].block, live[i].size, i);
    }
    /* Freed in an order that has nothing to do with the order of allocation. */
    for (size_t step = 0; step < COUNT; step++) {
        size_t i = step * 77773 % COUNT;
        check_filled(live[i].block, live[i].size, i);
        free(live[i].block);
    }
}

static void free_of_null_does_nothing(void) {
    errno = 4321;
    free(check_opaque(NULL));
    CHECK(errno == 4321);
}

static void *free_and_keep_errno(void *block) {
    errno = 1234;
    free(block);
    CHECK_THAT(errno == 1234, "free set errno to %d", errno);
    return NULL;
}

static void free_keeps_errno(void) {
    static struct sizes sizes;
    sizes_up_to(&sizes, 64 * MIB);
    for (size_t i = 0; i < sizes.count; i++) {
        void *block = malloc(sizes.of[i]);
        CHECK(block != NULL);
        free_and_keep_errno(block);
    }
    /* Many at once, so that caches spill; then blocks of this thread freed by another. */
    enum { COUNT = 4000 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) blocks[i] = malloc((size_t)(i % 40) * 100);
    for (int i = 0; i < COUNT; i++) free_and_keep_errno(blocks[i]);
    const size_t remote[] = {10, 3000, 100000, 8 * MIB};
    for (size_t i = 0; i < 4; i++) check_join(check_thread(free_and_keep_errno, malloc(remote[i])));
}

static void freed_memory_is_used_again(void) {
    enum { BATCH = 16 };
    const size_t sizes[] = {16, 1000, 5000, 40000, 300000, 3 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t rounds = 256 * MIB / (BATCH * sizes[i]);
        if (rounds > 20000) rounds = 20000;
        size_t before = check_status("VmRSS:");
        for (size_t round = 0; round < rounds; round++) {
            void *blocks[BATCH];
            for (int j = 0; j < BATCH; j++) {
                blocks[j] = malloc(sizes[i]);
                CHECK(blocks[j] != NULL);
                memset(blocks[j], 1, sizes[i]);
            }
            for (int j = 0; j < BATCH; j++) free(blocks[j]);
        }
        size_t after = check_status("VmRSS:");
        CHECK_THAT(after < before + 2 * BATCH * sizes[i] + 16 * MIB,
                   "%zu-byte blocks: resident memory went from %zu to %zu bytes", sizes[i], before,
                   after);
    }
}

static void blocks_from_libc_functions_can_be_freed(void) {
    char *copy = strdup("a string of its own");
    char *prefix = strndup("a string cut short", 8);
    char *formatted = NULL;
    CHECK(asprintf(&formatted, "%d and %s", 42, copy) > 0);
    CHECK(strcmp(formatted, "42 and a string of its own") == 0);
    char *buffer = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&buffer, &length);
    CHECK(stream != NULL);
    for (int i = 0; i < 20000; i++) CHECK(fprintf(stream, "%d\n", i) > 0);
    CHECK(fclose(stream) == 0 && length > 20000);
    char *line = NULL;
    size_t room = 0;
    FILE *input = fmemopen(buffer, length, "r");
    CHECK(input != NULL);
    for (int i = 0; i < 20000; i++) CHECK(getline(&line, &room, input) > 0 && atoi(line) == i);
    CHECK(fclose(input) == 0);
    char *path = realpath("/proc/self/../.", NULL);
    CHECK(path != NULL && strcmp(path, "/proc") == 0);
    void *const blocks[] = {copy, prefix, formatted, buffer, line, path};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        CHECK(malloc_usable_size(blocks[i]) > 0);
        free(blocks[i]);
    }
}

CHECK_MAIN(CASE(malloc_of_zero_returns_distinct_blocks),
           CASE(malloc_beyond_every_limit_fails_with_enomem),
           CASE(what_exceeds_the_machine_is_refused_as_the_kernel_would),
           CASE(every_block_is_aligned_to_16_bytes),
           CASE(live_blocks_of_every_size_do_not_overlap),
           CASE(two_hundred_thousand_small_blocks_do_not_overlap),
           CASE(free_of_null_does_nothing),
           CASE(free_keeps_errno),
           CASE(freed_memory_is_used_again),
           CASE(blocks_from_libc_functions_can_be_freed))
