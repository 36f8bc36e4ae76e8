/*
 * arenas.c: a heap in many arenas, by HZ3_ARENA_SIZE=4M or a limit on address space. Blocks of each
 * are freed, resized and measured by other threads, and misuse is noticed there as in the first.
 */
#include "check.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* Blocks of PIECE bytes, of which one in STEP is looked at; they fill some fifteen arenas from 4 MiB on. */
#define PIECE (30 * KIB)
#define PIECES (size_t)40000
#define STEP 211
#define THREADS 4

static char *pieces[PIECES];

/* Blocks of several sizes between the pieces, so that every arena has some of each. */
static const size_t sizes[] = {16, 100, 1000, 6000, 20000, 70000, 1 << 20};
#define SIZES (sizeof sizes / sizeof sizes[0])
static char *among[PIECES / STEP + 1][SIZES];

static void fill_arenas(void) {
    for (size_t i = 0; i < PIECES; i++) {
        CHECK((pieces[i] = malloc(PIECE)) != NULL);
        *pieces[i] = (char)i;
        if (i % STEP != 0) continue;
        for (size_t j = 0; j < SIZES; j++) {
            CHECK((among[i / STEP][j] = malloc(sizes[j])) != NULL);
            check_fill(among[i / STEP][j], sizes[j], i + j);
        }
    }
}

static void empty_arenas(void) {
    for (size_t i = 0; i < PIECES; i++) {
        CHECK(*pieces[i] == (char)i);
        free(pieces[i]);
    }
}

/* Frees, resizes and measures every THREADS-th row of what lies among the pieces. */
static void *free_rows(void *index) {
    for (size_t row = (uintptr_t)index; row < PIECES / STEP; row += THREADS) {
        for (size_t j = 0; j < SIZES; j++) {
            char *block = among[row][j];
            size_t size = sizes[j], seed = row * STEP + j;
            CHECK(malloc_usable_size(block) >= size);
            check_filled(block, size, seed);
            if ((row + j) % 3 == 0) {
                CHECK((block = realloc(block, size * 2)) != NULL);
                check_filled(block, size / 8 * 8, seed);
            }
            free(block);
        }
    }
    return NULL;
}

static void blocks_of_every_arena_are_freed_by_other_threads(void) {
    for (int round = 0; round < 3; round++) {
        fill_arenas();
        pthread_t threads[THREADS];
        for (uintptr_t i = 0; i < THREADS; i++) threads[i] = check_thread(free_rows, (void *)i);
        for (int i = 0; i < THREADS; i++) check_join(threads[i]);
        empty_arenas();
        malloc_trim(0);
    }
}

/* ---- misuse ------------------------------------------------------------------------------ */

static void expect_abort(void (*misuse)(char *), char *pointer) {
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        CHECK(null >= 0 && dup2(null, STDERR_FILENO) >= 0);
        misuse(check_opaque(pointer));
        malloc_trim(0);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%p: wait status %#x", (void *)pointer, (unsigned)status);
}

static void free_it(char *block) { free(block); }

static void free_twice(char *block) {
    free(block);
    free(check_opaque(block));
}

static void free_inside(char *block) { free(block + 16); }

static void resize_inside(char *block) { free(realloc(block + 16, 10)); }

static void misuse_is_noticed_in_every_arena(void) {
    fill_arenas();
    for (size_t row = 0; row < PIECES / STEP; row += 40) {
        for (size_t j = 1; j < SIZES; j++) {
            expect_abort(free_twice, among[row][j]);
            expect_abort(free_inside, among[row][j]);
            expect_abort(resize_inside, among[row][j]);
        }
    }
    for (uintptr_t i = 0; i < THREADS; i++) free_rows((void *)i);
    empty_arenas();
}

/* Addresses around the blocks, in steps of an odd number of pages, that no block begins at. */
static void what_lies_between_the_arenas_is_no_block(void) {
    fill_arenas();
    uintptr_t least = UINTPTR_MAX, most = 0;
    for (size_t i = 0; i < PIECES; i++) {
        if ((uintptr_t)pieces[i] < least) least = (uintptr_t)pieces[i];
        if ((uintptr_t)pieces[i] > most) most = (uintptr_t)pieces[i];
    }
    const uintptr_t reach = 64 * MIB, step = (most - least + 2 * reach) / 31 / 4096 * 4096;
    for (uintptr_t at = least / 4096 * 4096 - reach; at < most + reach; at += step) {
        /* Not aligned as a block is. */
        expect_abort(free_it, (char *)at + 8);
        CHECK(malloc_usable_size(NULL) == 0);
    }
    void *program = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(program != MAP_FAILED);
    expect_abort(free_it, program);
    for (uintptr_t i = 0; i < THREADS; i++) free_rows((void *)i);
    empty_arenas();
}

/* A table of tags for addresses that are not used costs no memory, also where everything is locked. */
static void addresses_that_are_not_used_cost_no_memory(void) {
    free(malloc(100));
    size_t first_size = check_status("VmRSS:");
    CHECK_THAT(first_size < 64 * MIB, "%zu MiB are resident after the first block", first_size / MIB);
    const struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        check_skip("mlockall is forbidden here: run it with `ulimit -l unlimited`");
    CHECK(malloc(100 * KIB) != NULL);
    size_t size = check_status("VmRSS:");
    CHECK_THAT(size < first_size + 64 * MIB, "mlockall made %zu MiB resident", (size - first_size) / MIB);
}

/* ---- strangers in the way ---------------------------------------------------------------- */

/* Where the mapping that holds `block` ends. */
static uintptr_t end_of_mapping(const void *block) {
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    char line[512];
    uintptr_t from = 0, to = 0;
    while (fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) == 2 && from <= (uintptr_t)block && (uintptr_t)block < to) break;
    fclose(maps);
    CHECK((uintptr_t)block < to);
    return to;
}

/* Maps `size` bytes where the heap would go on; NULL if something is there already, or it is refused. */
static unsigned char *stand_in_the_way(size_t size, int rights) {
    static char *last;
    for (int i = 0; i < 100; i++) CHECK((last = malloc(40 * KIB)) != NULL);
    void *wanted = (void *)end_of_mapping(last);
    void *mapped = mmap(wanted, size, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (mapped == MAP_FAILED) return NULL;
    if (mapped != wanted) munmap(mapped, size);
    return mapped == wanted ? (unsigned char *)mapped : NULL;
}

static void a_heap_goes_round_what_is_in_the_way(void) {
    enum { MOST = 30 };
    unsigned char *pages[MOST];
    size_t count = 0;
    for (int round = 0; round < MOST; round++) {
        unsigned char *page = stand_in_the_way(4 * KIB, PROT_READ | PROT_WRITE);
        if (page == NULL) continue;
        check_fill(page, 4 * KIB, count);
        pages[count++] = page;
    }
    CHECK_THAT(count > MOST / 2, "only %zu pages were in the way", count);
    fill_arenas();
    for (size_t i = 0; i < count; i++) check_filled(pages[i], 4 * KIB, i);
    for (size_t i = 0; i < count; i += 7) expect_abort(free_it, (char *)pages[i] + 16);
    for (uintptr_t i = 0; i < THREADS; i++) free_rows((void *)i);
    empty_arenas();
    for (size_t i = 0; i < count; i++) check_filled(pages[i], 4 * KIB, i);
}

static void a_heap_goes_on_elsewhere_if_there_is_no_way_round(void) {
    for (int round = 0; round < 3; round++) {
        unsigned char *wall = stand_in_the_way(2 * GIB, PROT_NONE);
        if (wall == NULL && round == 0) check_skip("no wall of 2 GiB: %s", strerror(errno));
        fill_arenas();
        if (wall != NULL) expect_abort(free_it, (char *)wall + GIB);
        pthread_t threads[THREADS];
        for (uintptr_t i = 0; i < THREADS; i++) threads[i] = check_thread(free_rows, (void *)i);
        for (int i = 0; i < THREADS; i++) check_join(threads[i]);
        empty_arenas();
        malloc_trim(0);
    }
}

/* Many threads, each with a heap that needs new arenas at once. */
static void *grow(void *seed) {
    static __thread char *blocks[2000];
    uint64_t random = (uintptr_t)seed;
    for (size_t i = 0; i < 2000; i++) {
        size_t size = 1 + check_random(&random) % (60 * KIB);
        CHECK((blocks[i] = malloc(size)) != NULL);
        check_fill(blocks[i], size < 64 ? size : 64, i);
    }
    random = (uintptr_t)seed;
    for (size_t i = 0; i < 2000; i++) {
        size_t size = 1 + check_random(&random) % (60 * KIB);
        check_filled(blocks[i], size < 64 ? size : 64, i);
        free(blocks[i]);
    }
    return NULL;
}

static void threads_that_grow_at_once_get_blocks_of_their_own(void) {
    pthread_t threads[4 * THREADS];
    for (uintptr_t i = 0; i < 4 * THREADS; i++) threads[i] = check_thread(grow, (void *)(i + 1));
    for (int i = 0; i < 4 * THREADS; i++) check_join(threads[i]);
}

CHECK_MAIN(CASE(blocks_of_every_arena_are_freed_by_other_threads),
           CASE(misuse_is_noticed_in_every_arena),
           CASE(what_lies_between_the_arenas_is_no_block),
           CASE(addresses_that_are_not_used_cost_no_memory),
           CASE(a_heap_goes_round_what_is_in_the_way),
           CASE(a_heap_goes_on_elsewhere_if_there_is_no_way_round),
           CASE(threads_that_grow_at_once_get_blocks_of_their_own))
