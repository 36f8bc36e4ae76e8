/*
 * profile.c: programs for the heap profiler. Each case allocates known amounts in functions of known names; the
 * caller, which sets HZ3_PROFILE, reads the profile and compares. Lines "NAME START END" on standard output say
 * which addresses are whose, and "bytes NAME LIVE ALL" what the function has allocated.
 */
#include "check.h"

#include <sys/wait.h>

/* Frames are told apart by the function that a return address lies in, so each is a function of its own, and its
 * end is that of the section that it has to itself. */
#define SITE(name)                                                                                              \
    extern char __start_in_##name[], __stop_in_##name[];                                                             \
    __attribute__((noinline, section("in_" #name))) static void *name(size_t bytes) {                                 \
        void *block = malloc(bytes);                                                                            \
        CHECK(block != NULL);                                                                                   \
        memset(block, 1, bytes < 64 ? bytes : 64);                                                              \
        return check_opaque(block);                                                                             \
    }

SITE(site_a)
SITE(site_b)
SITE(site_c)
SITE(site_d)

static void say_sites(void) {
    printf("site a %p %p\n", (void *)__start_in_site_a, (void *)__stop_in_site_a);
    printf("site b %p %p\n", (void *)__start_in_site_b, (void *)__stop_in_site_b);
    printf("site c %p %p\n", (void *)__start_in_site_c, (void *)__stop_in_site_c);
    printf("site d %p %p\n", (void *)__start_in_site_d, (void *)__stop_in_site_d);
}

static void say_bytes(const char *site, size_t live, size_t all) { printf("bytes %s %zu %zu\n", site, live, all); }

static void *kept[400000];

/* Keeps the blocks in `kept` from `first` on; returns how many. */
static size_t keep(void *(*site)(size_t), size_t first, size_t blocks, size_t bytes) {
    for (size_t i = 0; i < blocks; i++) kept[first + i] = site(bytes);
    return first + blocks;
}

static void churn(void *(*site)(size_t), size_t blocks, size_t bytes) {
    for (size_t i = 0; i < blocks; i++) free(site(bytes));
}

/* Of 600 MiB, 150 stay with small blocks of one function and 450 with larger ones of another. */
static void live_blocks_are_attributed_to_their_functions(void) {
    say_sites();
    keep(site_a, 0, 150 * 1024 * 1024 / 1000, 1000);
    keep(site_b, 200000, 450 * 16, 64 * KIB);
    size_t small = (size_t)(150 * 1024 * 1024 / 1000) * 1000;
    say_bytes("a", small, small);
    say_bytes("b", 450 * MIB, 450 * MIB);
}

/* What one function allocates and frees at once, in small blocks and in large, is in the cumulative counts alone. */
static void freed_blocks_stay_in_the_cumulative_counts(void) {
    say_sites();
    churn(site_a, 400 * MIB / 400, 400);
    churn(site_b, 400 * MIB / (100 * KIB), 100 * KIB);
    keep(site_c, 0, 300000, 700);
    churn(site_d, 20, 40 * MIB);
    say_bytes("a", 0, 400 * MIB / 400 * 400);
    say_bytes("b", 0, 400 * MIB / (100 * KIB) * (100 * KIB));
    say_bytes("c", 300000 * 700, 300000 * 700);
    say_bytes("d", 0, 20 * 40 * MIB);
}

#define THREADS 4

static void *thread_of_many(void *start) {
    size_t first = *(size_t *)start;
    /* Two of three are freed, here or, further on, by another thread. */
    for (size_t i = 0; i < 90000; i++) {
        void *block = site_a(1500);
        if (i % 3 == 0)
            kept[first + i / 3] = block;
        else
            free(block);
    }
    keep(site_b, first + 30000, 30000, 500);
    return NULL;
}

/* Four threads allocate; the first one frees what one of their functions has left. */
static void threads_are_sampled_and_others_free_their_blocks(void) {
    say_sites();
    pthread_t threads[THREADS];
    size_t first[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        first[i] = i * 60000;
        CHECK(pthread_create(&threads[i], NULL, thread_of_many, &first[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        for (size_t j = 0; j < 30000; j++) free(kept[first[i] + 30000 + j]);
    say_bytes("a", THREADS * 30000 * 1500, THREADS * 90000 * 1500);
    say_bytes("b", 0, THREADS * 30000 * 500);
}

/* A child goes on, exits, and the parent does. Standard output is the parent's alone. */
static void a_child_has_its_own_profile_or_none(void) {
    say_sites();
    keep(site_a, 0, 100000, 1000);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        keep(site_b, 100000, 100000, 1000);
        CHECK(freopen("/dev/null", "w", stdout) != NULL);
        return;
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    keep(site_c, 200000, 100000, 1000);
    say_bytes("a", 100000 * 1000, 100000 * 1000);
    say_bytes("c", 100000 * 1000, 100000 * 1000);
    printf("processes %d %d\n", (int)getpid(), (int)child);
}

/* Large blocks grow in place and by moving; small ones from bin to bin. Cumulative counts are not compared. */
static void resized_blocks_count_with_their_size(void) {
    say_sites();
    char *large = site_a(100 * KIB);
    for (size_t bytes = 100 * KIB; bytes <= 500 * MIB; bytes += bytes / 4) {
        CHECK((large = check_opaque(realloc(large, bytes))) != NULL);
        large[bytes - 1] = 1;
    }
    for (size_t i = 0; i < 100000; i++) {
        kept[i] = site_b(100);
        for (size_t bytes = 100; bytes <= 2000; bytes *= 2) {
            CHECK((kept[i] = check_opaque(realloc(kept[i], bytes))) != NULL);
            CHECK(malloc_usable_size(kept[i]) < 2 * bytes);
        }
        if (i % 2) free(kept[i]);
    }
}

/* The exported function writes when asked, also to another file, which must not be impossible to open. */
static void a_profile_is_written_on_demand(void) {
    int (*dump)(const char *) = (int (*)(const char *))check_symbol("hz3_profile_dump");
    say_sites();
    keep(site_a, 0, 100000, 1000);
    CHECK(dump(NULL) == 0);
    const char *other = getenv("OTHER_PROFILE");
    CHECK(other != NULL && dump(other) == 0);
    errno = 0;
    CHECK(dump("/proc/no/such/folder") == -1 && errno == ENOENT);
    say_bytes("a", 100000 * 1000, 100000 * 1000);
    fflush(stdout);
    _exit(0);
}

/* Without HZ3_PROFILE. */
static void without_a_profile_there_is_none_to_write(void) {
    int (*dump)(const char *) = (int (*)(const char *))check_symbol("hz3_profile_dump");
    errno = 0;
    CHECK(dump(NULL) == -1 && errno == EINVAL);
    CHECK(dump("/dev/null") == -1 && errno == EINVAL);
}

/* Every block is sampled: small ones of each size and alignment keep what is written to them. */
static void sampled_blocks_hold_what_they_should(void) {
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < 3000; i++) {
            size_t bytes = i * 17 % 40000;
            kept[i] = i % 4 == 0   ? calloc(1, bytes)
                      : i % 4 == 1 ? aligned_alloc((size_t)16 << i % 9, bytes)
                                   : malloc(bytes);
            CHECK(kept[i] != NULL && (i % 4 != 1 || (uintptr_t)kept[i] % ((size_t)16 << i % 9) == 0));
            CHECK(malloc_usable_size(kept[i]) >= bytes);
            for (size_t j = 0; i % 4 == 0 && j < bytes; j++) CHECK(((char *)kept[i])[j] == 0);
            memset(kept[i], (int)i, malloc_usable_size(kept[i]));
        }
        for (size_t i = 0; i < 3000; i++) {
            size_t bytes = i * 17 % 40000;
            for (size_t j = 0; j < bytes; j++) CHECK(((char *)kept[i])[j] == (char)i);
            if (i % 3 == 0) {
                CHECK((kept[i] = check_opaque(realloc(kept[i], bytes * 2 + 1))) != NULL);
                for (size_t j = 0; j < bytes; j++) CHECK(((char *)kept[i])[j] == (char)i);
            }
            free(kept[i]);
        }
    }
}

CHECK_MAIN(CASE(live_blocks_are_attributed_to_their_functions), CASE(freed_blocks_stay_in_the_cumulative_counts),
           CASE(threads_are_sampled_and_others_free_their_blocks), CASE(a_child_has_its_own_profile_or_none),
           CASE(resized_blocks_count_with_their_size), CASE(a_profile_is_written_on_demand),
           CASE(without_a_profile_there_is_none_to_write), CASE(sampled_blocks_hold_what_they_should))
