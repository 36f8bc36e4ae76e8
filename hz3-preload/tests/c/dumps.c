/*
 * dumps.c: with HZ3_SMALL_CORES=1, core dumps leave out what is free in long ranges, and nothing that is used. The kernel
 * lists what they leave out with the flag "dd".
 */
#include "check.h"

#include <sys/mman.h>

enum { BLOCKS = 400, GROUP = 100, KEPT = 25 };

static char *blocks[BLOCKS];

static void take(size_t from) {
    for (size_t i = from; i < BLOCKS; i++) {
        if (blocks[i] != NULL) continue;
        CHECK((blocks[i] = (char *)malloc(MIB)) != NULL);
        memset(blocks[i], 7, MIB);
    }
}

static size_t block_at(uintptr_t start, uintptr_t end) {
    for (size_t i = 0; i < BLOCKS; i++)
        if (blocks[i] != NULL && (uintptr_t)blocks[i] < end && (uintptr_t)blocks[i] + MIB > start) return i;
    return BLOCKS;
}

/* The bytes that dumps leave out, none of a block. Reads into a buffer of its own, as it must not change what is free. */
static size_t left_out(void) {
    static char buffer[64 * KIB];
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file != NULL && setvbuf(file, buffer, _IOFBF, sizeof buffer) == 0);
    char line[512];
    size_t sum = 0;
    unsigned long start = 0, end = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "VmFlags:", 8) != 0) {
            unsigned long first, last;
            if (sscanf(line, "%lx-%lx ", &first, &last) == 2) start = first, end = last;
        } else if (strstr(line, " dd") != NULL && strstr(line, " io") == NULL && strstr(line, " pf") == NULL) {
            size_t used = block_at(start, end);
            CHECK_THAT(used == BLOCKS, "block %zu is left out", used);
            sum += end - start;
        }
    }
    fclose(file);
    return sum;
}

/* Returns what dumps leave out more once three quarters of the blocks are free. */
static size_t left_out_of_most(void) {
    take(0);
    size_t before = left_out();
    for (size_t i = 0; i < BLOCKS; i++) {
        if (i % GROUP < KEPT) continue;
        free(blocks[i]);
        blocks[i] = NULL;
    }
    malloc_trim(0);
    return left_out() - before;
}

static void core_dumps_hold_everything(void) {
    CHECK(left_out_of_most() == 0);
}

static void core_dumps_hold_what_is_used_and_little_more(void) {
    size_t most = left_out_of_most();
    CHECK_THAT(most > 200 * MIB, "%zu bytes", most);
    /* Some of it, then all. */
    take(BLOCKS - GROUP);
    left_out();
    take(0);
    left_out();
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]), blocks[i] = NULL;
    malloc_trim(0);
    take(0);
    left_out();
}

CHECK_MAIN(CASE(core_dumps_hold_everything), CASE(core_dumps_hold_what_is_used_and_little_more))
