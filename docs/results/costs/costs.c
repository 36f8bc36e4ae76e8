/*
 * costs.c: what one call costs as something else grows. `costs MODE X` prints `MODE X NANOSECONDS`, of processor time or,
 * where threads are at rest, of the same; `costs` alone prints each MODE with its values of X. Exit status 77: this
 * allocator has no such function, or no room.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB ((size_t)1024 * 1024)
enum { SKIPPED = 77 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void *take(size_t size) {
    void *block = malloc(size);
    if (block == NULL) exit(SKIPPED);
    return block;
}

static size_t process_bytes(void) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%lu", &pages) != 1) exit(1);
    fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void limit_address_space(size_t bytes) {
    const struct rlimit limit = {bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0) exit(1);
}

static uint64_t state = 1;

static size_t random_below(size_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % limit;
}

/* A malloc of 1 MiB that fails, beside x MiB of blocks of 1,000 bytes, half of them freed. */
static double failing_malloc(size_t mib) {
    size_t count = mib << 10, tries = 0;
    char **blocks = take(count * sizeof *blocks);
    for (size_t i = 0; i < count; i++) memset(blocks[i] = take(1000), 1, 1000);
    size_t limit = process_bytes() + 64 * MIB;
    for (size_t i = 0; i < count; i += 2) free(blocks[i]);
    limit_address_space(limit);
    for (size_t held = 0; malloc(MIB) != NULL; held++)
        if (held > 100000) exit(SKIPPED);
    double start = now();
    while (tries < 200 && now() - start < 1e8) tries += malloc(MIB) == NULL;
    return (now() - start) / (double)tries;
}

/* A realloc to x KiB and one to three quarters of it, both ends written. */
static double realloc_pair(size_t kib) {
    size_t large = kib * KIB, small = large / 4 * 3, pairs = 0;
    char *block = take(small);
    memset(block, 1, small);
    double start = now();
    for (; pairs < 20000 && now() - start < 5e7; pairs++) {
        if ((block = realloc(block, large)) == NULL) exit(SKIPPED);
        block[large - 1] = 1;
        if ((block = realloc(block, small)) == NULL) exit(SKIPPED);
        block[small - 1] = 1;
    }
    return (now() - start) / (double)pairs;
}

/* x blocks of 32 MiB, not written to, in random order. */
static void **direct_blocks(size_t count) {
    void **blocks = take(count * sizeof *blocks);
    for (size_t i = 0; i < count; i++) blocks[i] = take(32 * MIB);
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = random_below(i + 1);
        void *block = blocks[i];
        blocks[i] = blocks[other];
        blocks[other] = block;
    }
    return blocks;
}

static double direct_free(size_t count) {
    void **blocks = direct_blocks(count);
    size_t freed = count < 1000 ? count : 1000;
    double start = now();
    for (size_t i = 0; i < freed; i++) free(blocks[i]);
    return (now() - start) / (double)freed;
}

static double direct_usable_size(size_t count) {
    void **blocks = direct_blocks(count);
    volatile size_t sum = 0;
    double start = now();
    for (size_t i = 0; i < 20000; i++) sum += malloc_usable_size(blocks[i % count]);
    return (now() - start) / 20000;
}

static pthread_barrier_t barrier;

static void *allocate_and_rest(void *unused) {
    void *blocks[500];
    for (size_t i = 0; i < 500; i++) blocks[i] = take(16 + i * 7);
    for (size_t i = 0; i < 500; i += 2) free(blocks[i]);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return unused;
}

/* mallinfo2 in a process with x other threads that have allocated and are at rest. */
static double mallinfo2_call(size_t threads) {
    struct mallinfo2 (*function)(void) = (struct mallinfo2(*)(void))dlsym(RTLD_DEFAULT, "mallinfo2");
    Dl_info of_function, of_malloc;
    if (function == NULL || !dladdr((void *)function, &of_function)) exit(SKIPPED);
    if (!dladdr(dlsym(RTLD_DEFAULT, "malloc"), &of_malloc) || of_function.dli_fbase != of_malloc.dli_fbase) exit(SKIPPED);
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    for (size_t i = 0; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, allocate_and_rest, NULL) != 0) exit(SKIPPED);
    }
    pthread_barrier_wait(&barrier);
    volatile size_t sum = 0;
    size_t calls = 0;
    double start = now();
    for (; calls < 20000 && now() - start < 5e7; calls++) sum += function().uordblks;
    return (now() - start) / (double)calls;
}

/* A malloc and a free of 100 bytes behind x MiB of heap, in an address space of 16 GB: hz3's arenas have 1 GB then. */
static double free_behind(size_t mib) {
    enum { BLOCKS = 30, TURNS = 100000 };
    void *blocks[BLOCKS];
    limit_address_space((size_t)16000000000);
    for (size_t i = 0; i < mib * 32; i++) *(char *)take(32 * KIB) = 1;
    double start = now();
    for (size_t turn = 0; turn < TURNS; turn++) {
        for (size_t i = 0; i < BLOCKS; i++) blocks[i] = malloc(100);
        for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
    }
    return (now() - start) / TURNS / BLOCKS;
}

/* A malloc and a free of 200 KiB, with x free runs of 64 to 96 KiB, each between two blocks, in front. */
static double run_behind_runs(size_t runs) {
    void **blocks = take(2 * runs * sizeof *blocks);
    for (size_t i = 0; i < 2 * runs; i++) blocks[i] = take((i % 2 == 0 ? 64 + random_below(9) * 4 : 36) * KIB);
    for (size_t i = 0; i < 2 * runs; i += 2) free(blocks[i]);
    void *held[16] = {NULL};
    size_t turns = 0;
    double start = now();
    for (; turns < 20000 && now() - start < 5e7; turns++) {
        free(held[turns % 16]);
        held[turns % 16] = take(200 * KIB);
    }
    return (now() - start) / (double)turns;
}

static const struct mode {
    const char *name;
    double (*cost)(size_t x);
    size_t values[8];
} modes[] = {
    {"failing_malloc", failing_malloc, {10, 30, 100, 300}},
    {"realloc_pair", realloc_pair, {1, 8, 64, 512, 4096, 32768, 262144}},
    {"direct_free", direct_free, {10, 100, 1000, 10000}},
    {"direct_usable_size", direct_usable_size, {10, 100, 1000, 10000}},
    {"mallinfo2", mallinfo2_call, {1, 2, 4, 8, 16, 32, 64}},
    {"free", free_behind, {100, 1000, 2000, 4000}},
    {"run_behind_runs", run_behind_runs, {10, 100, 1000, 10000}},
};

int main(int count, char **words) {
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (count == 1) {
            printf("%s", modes[i].name);
            for (size_t j = 0; j < 8 && modes[i].values[j] != 0; j++) printf(" %zu", modes[i].values[j]);
            printf("\n");
        } else if (count == 3 && strcmp(words[1], modes[i].name) == 0) {
            printf("%s %s %.2f\n", words[1], words[2], modes[i].cost(strtoul(words[2], NULL, 10)));
            fflush(stdout);
            /* No tear-down: what is measured is over. */
            _exit(0);
        }
    }
    return count == 1 ? 0 : 1;
}
