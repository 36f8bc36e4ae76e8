/* Programs in which libc's functions are a library's that allocates in each: plugin/hooks.c, preloaded too. */
#include "check.h"
#include "churn.h"

#include <malloc.h>
#include <sys/wait.h>

static void release_of_hooks(void) {
    void (*release)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "hooks_release_all");
    CHECK_THAT(release != NULL, "the hooks are not preloaded");
    release();
}

static unsigned long hooked(const char *name) {
    unsigned long (*calls)(const char *) = (unsigned long (*)(const char *))dlsym(RTLD_DEFAULT, "hooked_calls");
    CHECK_THAT(calls != NULL, "the hooks are not preloaded");
    return calls(name);
}

static void expect_hooked(const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++) CHECK_THAT(hooked(names[i]) > 0, "%s was never called", names[i]);
    /* Such a call may be a wait for a lock; and libraries that show another time read theirs before they can. */
    CHECK(hooked("syscall") == 0 && hooked("clock_gettime") == 0);
}

#define EXPECT_HOOKED(...)                                                                        \
    do {                                                                                          \
        static const char *const names[] = {__VA_ARGS__};                                         \
        expect_hooked(names, sizeof names / sizeof *names);                                       \
    } while (0)

/* mmap and mprotect serve every growth, madvise every purge; the others serve a start, of the process or of a
 * thread. */
static void expect_hooked_calls(void) {
    EXPECT_HOOKED("mmap", "munmap", "mprotect", "madvise", "mremap", "getauxval", "getrlimit",
                  "pthread_key_create", "pthread_setspecific", "__register_atfork");
}

/* Many sizes at once, up to direct mappings, all live, then all freed: growth, then misses of every kind. */
static void *rise_and_fall(void *seed) {
    enum { BLOCKS = 3000 };
    uint64_t random = (uint64_t)(uintptr_t)seed;
    struct {
        void *block;
        size_t size;
    } *blocks = malloc(BLOCKS * sizeof *blocks);
    CHECK(blocks != NULL);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t dice = check_random(&random) % 1000;
            size_t limit = dice < 700 ? 300 : dice < 950 ? 6000 : dice < 999 ? 200000 : 3000000;
            blocks[i].size = 1 + check_random(&random) % limit;
            blocks[i].block = malloc(blocks[i].size);
            CHECK(blocks[i].block != NULL);
            check_fill(blocks[i].block, blocks[i].size, (uint64_t)(uintptr_t)seed + (uint64_t)i);
        }
        for (int i = 0; i < BLOCKS; i++) {
            int at = (i * 7) % BLOCKS; /* 7 does not divide 3000: each once */
            check_filled(blocks[at].block, blocks[at].size, (uint64_t)(uintptr_t)seed + (uint64_t)at);
            free(blocks[at].block);
        }
        void *direct = malloc(130 * MIB);
        CHECK(direct != NULL);
        direct = realloc(direct, 140 * MIB);
        CHECK(direct != NULL);
        free(direct);
        malloc_trim(0);
    }
    free(blocks);
    release_of_hooks();
    return NULL;
}

static void four_threads_allocate_while_their_calls_allocate(void) {
    pthread_t threads[4];
    for (int round = 0; round < 3; round++) {
        for (uintptr_t i = 0; i < 4; i++) threads[i] = check_thread(rise_and_fall, (void *)(i + 1));
        for (int i = 0; i < 4; i++) check_join(threads[i]);
    }
    expect_hooked_calls();
}

static void one_thread_allocates_while_its_calls_allocate(void) {
    rise_and_fall((void *)9);
    expect_hooked_calls();
    /* A process of one thread stays so: its signal handlers may fork. */
    free(check_opaque(malloc(100 * MIB)));
    rise_and_fall((void *)10);
    const uint64_t threads = check_status_number("/proc/self/status", "Threads:", 10);
    CHECK_THAT(threads == 1, "%llu threads", (unsigned long long)threads);
}

/* Threads that free each other's blocks, with a purge now and then. */
static void blocks_pass_between_threads_while_calls_allocate(void) {
    churn_start(4);
    for (int i = 0; i < 20; i++) {
        usleep(20000);
        malloc_trim(0);
    }
    churn_stop();
    churn_empty_the_slots();
    EXPECT_HOOKED("mmap", "mprotect", "madvise", "pthread_key_create", "__register_atfork");
}

/* Run with a profile, a statistics page, a background thread and statistics at exit. */
static void everything_is_written_while_calls_allocate(void) {
    int (*dump_profile)(const char *) = (int (*)(const char *))check_symbol("hz3_profile_dump");
    int (*dump)(int) = (int (*)(int))check_symbol("hz3_dump");
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++) threads[i] = check_thread(rise_and_fall, (void *)(i + 1));
    FILE *nowhere = fopen("/dev/null", "w");
    CHECK(nowhere != NULL);
    for (int i = 0; i < 5; i++) {
        CHECK(dump_profile(NULL) == 0);
        CHECK(dump(fileno(nowhere)) == 0);
        CHECK(malloc_info(0, nowhere) == 0);
        malloc_stats();
        usleep(100000);
    }
    for (int i = 0; i < 4; i++) check_join(threads[i]);
    fclose(nowhere);
    expect_hooked_calls();
    EXPECT_HOOKED("prctl", "pthread_create", "pthread_attr_init",
                  "pthread_attr_setdetachstate", "pthread_attr_setstacksize", "pthread_attr_destroy",
                  "pthread_sigmask", "sigfillset", "pthread_setcancelstate", "getpid", "open", "read", "write",
                  "close", "fwrite", "dl_iterate_phdr", "dlopen", "dlsym");
}

/* Run with a statistics page and a hook that forks while that is made: the child, which comes back into the making, must
 * leave the parent's page alone, and makes its own. */
static void a_call_forks_while_the_page_is_made(void) {
    int *is_child = (int *)dlsym(RTLD_DEFAULT, "hooks_is_child");
    CHECK(is_child != NULL);
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/hz3-%d.page", (int)getpid());
    for (int i = 0; i < 200 && access(path, F_OK) != 0; i++) {
        rise_and_fall((void *)3);
        usleep(20000);
    }
    CHECK_THAT(access(path, F_OK) == 0, "no page in the %s", *is_child ? "child" : "parent");
    if (*is_child) {
        char maps[256], line[512];
        snprintf(maps, sizeof maps, "/dev/shm/hz3-%d.page", (int)getppid());
        FILE *file = fopen("/proc/self/maps", "r");
        CHECK(file != NULL);
        while (fgets(line, sizeof line, file)) CHECK_THAT(strstr(line, maps) == NULL, "has the parent's page");
        fclose(file);
    }
}

/* The report of a misuse ends in abort(3), which may allocate. */
static void a_misuse_ends_the_process_although_abort_allocates(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        static char no_block[64];
        free(check_opaque(no_block + 16));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %#x", status);
}

CHECK_MAIN(CASE(four_threads_allocate_while_their_calls_allocate),
           CASE(one_thread_allocates_while_its_calls_allocate),
           CASE(blocks_pass_between_threads_while_calls_allocate), CASE(everything_is_written_while_calls_allocate),
           CASE(a_call_forks_while_the_page_is_made), CASE(a_misuse_ends_the_process_although_abort_allocates))
