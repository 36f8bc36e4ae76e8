/*
 * check.h: what every test program of the preload libraries shares: a check that prints
 * file:line and ends the process, a table of named cases, pattern-filled blocks, a seeded
 * generator, and readings of the process's own memory.
 *
 * A program is a table of cases. `PROGRAM CASE [ARGS…]` runs one, `PROGRAM` runs all of them one
 * after another, `PROGRAM --list` prints their names. Exit status: 0 passed, 1 failed, 77 skipped
 * (the reason is on stderr).
 *
 * Before the first case the program makes sure that the malloc it is about to test is hz3's: the
 * symbol `hz3_version` must be there, and in the same library as `malloc`. The environment
 * variable PRELOAD_TEST_ANY_MALLOC=1 switches that off, so that the tests themselves can be tried
 * against glibc or any other allocator; a case that needs a function which that allocator does
 * not have is then skipped instead of failed.
 *
 * Include it before any other header: it asks the C library for its GNU names.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __GLIBC__
/* What glibc's malloc.h has, hz3 exports everywhere, and no other C library declares. */
#define M_MXFAST 1
#define M_TRIM_THRESHOLD (-1)
#define M_TOP_PAD (-2)
#define M_MMAP_THRESHOLD (-3)
#define M_MMAP_MAX (-4)
#define M_CHECK_ACTION (-5)
#define M_PERTURB (-6)
#define M_ARENA_TEST (-7)
#define M_ARENA_MAX (-8)
struct mallinfo {
    int arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
struct mallinfo2 {
    size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost;
};
/* Weak: programs are linked with the C library alone. */
#define CHECK_WEAK __attribute__((weak))
CHECK_WEAK struct mallinfo mallinfo(void);
CHECK_WEAK struct mallinfo2 mallinfo2(void);
CHECK_WEAK int malloc_info(int, FILE *);
CHECK_WEAK int malloc_trim(size_t);
CHECK_WEAK int mallopt(int, int);
CHECK_WEAK void malloc_stats(void);
CHECK_WEAK void *pvalloc(size_t);
#endif

#define CHECK_UNUSED __attribute__((unused))
#define CHECK_SKIPPED 77
#define KIB ((size_t)1024)
#define MIB ((size_t)1024 * 1024)
#define GIB ((size_t)1024 * 1024 * 1024)

/* Fails the program unless `condition` holds. Usable in threads and in forked children. */
#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) check_fail(__FILE__, __LINE__, "%s", #condition);                       \
    } while (0)

/* As CHECK, with a message in the place of the condition's text. */
#define CHECK_THAT(condition, ...)                                                                \
    do {                                                                                          \
        if (!(condition)) check_fail(__FILE__, __LINE__, __VA_ARGS__);                            \
    } while (0)

/* Formats on the stack and writes with write(2): no allocation, whatever state malloc is in. */
static CHECK_UNUSED void check_print(const char *file, int line, const char *format, va_list list) {
    char text[1024];
    int length = snprintf(text, sizeof text, "%s:%d: ", file, line);
    length += vsnprintf(text + length, sizeof text - (size_t)length - 1, format, list);
    if ((size_t)length > sizeof text - 2) length = (int)sizeof text - 2;
    text[length++] = '\n';
    for (int done = 0; done < length;) {
        ssize_t written = write(2, text + done, (size_t)(length - done));
        if (written <= 0) break;
        done += (int)written;
    }
}

static CHECK_UNUSED void __attribute__((noreturn, format(printf, 3, 4)))
check_fail(const char *file, int line, const char *format, ...) {
    va_list list;
    va_start(list, format);
    check_print(file, line, format, list);
    va_end(list);
    _exit(1);
}

/* Ends the program as skipped; the test runner shows the reason. */
#define check_skip(...) check_skip_at(__FILE__, __LINE__, __VA_ARGS__)

static CHECK_UNUSED void __attribute__((noreturn, format(printf, 3, 4)))
check_skip_at(const char *file, int line, const char *format, ...) {
    va_list list;
    va_start(list, format);
    check_print(file, line, format, list);
    va_end(list);
    _exit(CHECK_SKIPPED);
}

/* ---- the allocator under test ------------------------------------------------------------ */

static CHECK_UNUSED int check_any_malloc(void) {
    const char *value = getenv("PRELOAD_TEST_ANY_MALLOC");
    return value != NULL && strcmp(value, "1") == 0;
}

/* The load address of the library that `symbol` lies in; NULL if there is none. */
static CHECK_UNUSED void *check_library_of(void *symbol) {
    Dl_info info;
    if (symbol == NULL || dladdr(symbol, &info) == 0) return NULL;
    return info.dli_fbase;
}

/* Fails unless hz3 serves this process's malloc. */
static CHECK_UNUSED void check_allocator(void) {
    if (check_any_malloc()) return;
    void *version = dlsym(RTLD_DEFAULT, "hz3_version");
    CHECK_THAT(version != NULL, "hz3_version is not in this process: no hz3 library is preloaded");
    CHECK_THAT(check_library_of(version) == check_library_of(dlsym(RTLD_DEFAULT, "malloc")),
               "malloc does not come from the library that has hz3_version");
}

/* Whether the allocator is the hardened lane. */
static CHECK_UNUSED int check_is_hardened(void) {
    const char *(*version)(void) = (const char *(*)(void))dlsym(RTLD_DEFAULT, "hz3_version");
    return version != NULL && strstr(version(), "hardened") != NULL;
}

/*
 * The function `name` of the allocator under test, for functions that libc's headers may lack or
 * that libc would otherwise answer itself. Fails if hz3 has none; skips if another allocator has
 * none.
 */
static CHECK_UNUSED void *check_symbol(const char *name) {
    void *symbol = dlsym(RTLD_DEFAULT, name);
    if (symbol != NULL &&
        check_library_of(symbol) == check_library_of(dlsym(RTLD_DEFAULT, "malloc")))
        return symbol;
    if (check_any_malloc()) check_skip("this allocator has no %s", name);
    check_fail(__FILE__, __LINE__, "%s does not come from hz3", name);
}

/* As check_symbol, but NULL where another allocator than hz3 is under test and has none. */
static CHECK_UNUSED void *check_symbol_if_any(const char *name) {
    if (!check_any_malloc()) return check_symbol(name);
    void *symbol = dlsym(RTLD_DEFAULT, name);
    if (check_library_of(symbol) != check_library_of(dlsym(RTLD_DEFAULT, "malloc"))) return NULL;
    return symbol;
}

/* Runs a function before every constructor; musl has no such moment, and there first of them. */
#ifdef __GLIBC__
#define CHECK_RUN_FIRST(function) \
    __attribute__((section(".preinit_array"), used)) static void (*const check_first)(void) = function
#else
#define CHECK_RUN_FIRST(function) \
    __attribute__((constructor(101))) static void check_first(void) { function(); }
#endif

/* ---- cases ------------------------------------------------------------------------------- */

struct check_case {
    const char *name;
    void (*run)(void);
};

/* What stands behind the case's name on the command line; NULL-terminated. */
static CHECK_UNUSED char **check_arguments;

static CHECK_UNUSED int check_main(int argc, char **argv, const struct check_case *cases,
                                   size_t count) {
    if (argc > 1 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < count; i++) printf("%s\n", cases[i].name);
        return 0;
    }
    check_allocator();
    check_arguments = argc > 2 ? argv + 2 : argv + argc;
    int found = 0;
    for (size_t i = 0; i < count; i++) {
        if (argc > 1 && strcmp(argv[1], cases[i].name) != 0) continue;
        cases[i].run();
        found = 1;
    }
    CHECK_THAT(found, "no case is called %s; --list prints the names", argv[1]);
    return 0;
}

#define CASE(function) {#function, function}

/* The program's main function: the table of its cases. */
#define CHECK_MAIN(...)                                                                           \
    static const struct check_case check_cases[] = {__VA_ARGS__};                                 \
    int main(int argc, char **argv) {                                                             \
        return check_main(argc, argv, check_cases, sizeof check_cases / sizeof check_cases[0]);   \
    }

/* ---- blocks ------------------------------------------------------------------------------ */

/* Hides where a pointer comes from, so that the compiler can neither drop nor merge a call. */
static CHECK_UNUSED void *check_opaque(void *pointer) {
    __asm__ volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

/* The same for a size: no warning about impossible ones, no folding. */
static CHECK_UNUSED size_t check_size(size_t size) {
    __asm__ volatile("" : "+r"(size));
    return size;
}

static CHECK_UNUSED int check_aligned(const void *pointer, size_t alignment) {
    return ((uintptr_t)pointer & (alignment - 1)) == 0;
}

static CHECK_UNUSED uint64_t check_pattern_word(uint64_t seed, size_t index) {
    return (seed + index) * 0x9e3779b97f4a7c15u ^ seed;
}

/* Fills the block with a pattern that differs with the seed and with the offset. */
static CHECK_UNUSED void check_fill(void *block, size_t size, uint64_t seed) {
    unsigned char *bytes = (unsigned char *)block;
    size_t words = size / 8;
    for (size_t i = 0; i < words; i++) {
        uint64_t word = check_pattern_word(seed, i);
        __builtin_memcpy(bytes + 8 * i, &word, 8);
    }
    uint64_t last = check_pattern_word(seed, words);
    memcpy(bytes + 8 * words, &last, size % 8);
}

#define check_filled(block, size, seed) check_filled_at(__FILE__, __LINE__, block, size, seed)

/* Fails unless the block's first `size` bytes still hold check_fill's pattern. */
static CHECK_UNUSED void check_filled_at(const char *file, int line, const void *block, size_t size,
                                         uint64_t seed) {
    const unsigned char *bytes = (const unsigned char *)block;
    size_t words = size / 8, index = 0;
    for (; index < words; index++) {
        uint64_t word;
        __builtin_memcpy(&word, bytes + 8 * index, 8);
        if (word != check_pattern_word(seed, index)) break;
    }
    uint64_t last = check_pattern_word(seed, words);
    if (index < words || memcmp(bytes + 8 * words, &last, size % 8) != 0)
        check_fail(file, line, "block %p of %zu bytes was overwritten at offset %zu", block, size,
                   8 * index);
}

#define check_zeroed(block, size) check_zeroed_at(__FILE__, __LINE__, block, size)

/* Fails unless the block's first `size` bytes are zero. */
static CHECK_UNUSED void check_zeroed_at(const char *file, int line, const void *block,
                                         size_t size) {
    const unsigned char *bytes = (const unsigned char *)block;
    if (size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0)) return;
    size_t offset = 0;
    while (bytes[offset] == 0) offset++;
    check_fail(file, line, "block %p of %zu bytes is not zero at offset %zu", block, size, offset);
}

/* The mappings that a process may have; skips where they are more than `bound`, which would take too long. */
static CHECK_UNUSED size_t check_most_mappings(size_t bound) {
    char text[32] = "";
    int file = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    if (file < 0) check_skip("no /proc/sys/vm/max_map_count");
    CHECK(read(file, text, sizeof text - 1) > 0);
    close(file);
    size_t most = strtoull(text, NULL, 10);
    if (most > bound) check_skip("vm.max_map_count is %zu", most);
    return most;
}

/* ---- random numbers ---------------------------------------------------------------------- */

/* The run's seed: PRELOAD_TEST_SEED if it is set, else a fresh one; printed, to repeat a failure. */
static CHECK_UNUSED uint64_t check_seed(void) {
    uint64_t seed = 0;
    const char *text = getenv("PRELOAD_TEST_SEED");
    if (text != NULL)
        seed = strtoull(text, NULL, 0);
    else
        CHECK(getrandom(&seed, sizeof seed, 0) == (ssize_t)sizeof seed);
    printf("PRELOAD_TEST_SEED=%#llx\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

/* splitmix64: one step of the generator whose state is `*state`. */
static CHECK_UNUSED uint64_t check_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A size from 1 byte to 4 MiB: mostly below 1 KiB, one in a hundred above 256 KiB. */
static CHECK_UNUSED size_t check_random_size(uint64_t *state) {
    uint64_t dice = check_random(state) % 1000;
    size_t limit = dice < 800 ? KIB : dice < 950 ? 32 * KIB : dice < 990 ? 256 * KIB : 4 * MIB;
    return 1 + check_random(state) % limit;
}

/* ---- threads and processes --------------------------------------------------------------- */

#define check_thread(run, argument) check_thread_at(__FILE__, __LINE__, NULL, run, argument)

static CHECK_UNUSED pthread_t check_thread_at(const char *file, int line,
                                              const pthread_attr_t *attributes,
                                              void *(*run)(void *), void *argument) {
    pthread_t thread;
    int error = pthread_create(&thread, attributes, run, argument);
    if (error != 0) check_fail(file, line, "pthread_create: %s", strerror(error));
    return thread;
}

#define check_join(thread) check_join_at(__FILE__, __LINE__, thread)

static CHECK_UNUSED void check_join_at(const char *file, int line, pthread_t thread) {
    int error = pthread_join(thread, NULL);
    if (error != 0) check_fail(file, line, "pthread_join: %s", strerror(error));
}

#define check_child_passed(pid) check_child_passed_at(__FILE__, __LINE__, pid)

/* Waits for the child and fails unless it ended with status 0. */
static CHECK_UNUSED void check_child_passed_at(const char *file, int line, pid_t pid) {
    int status = 0;
    pid_t ended;
    if (pid < 0) check_fail(file, line, "no child: %s", strerror(errno));
    do ended = waitpid(pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    if (ended != pid) check_fail(file, line, "waitpid: %s", strerror(errno));
    if (WIFSIGNALED(status)) check_fail(file, line, "child died of signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) == CHECK_SKIPPED) _exit(CHECK_SKIPPED);
    if (WEXITSTATUS(status) != 0)
        check_fail(file, line, "child exited with status %d", WEXITSTATUS(status));
}

/* The number behind a field of a /proc/…/status file. No allocation. */
static CHECK_UNUSED uint64_t check_status_number(const char *path, const char *field, int base) {
    char text[8192];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_THAT(file >= 0, "%s: %s", path, strerror(errno));
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    CHECK(length > 0);
    text[length] = '\0';
    const char *line = strstr(text, field);
    CHECK_THAT(line != NULL, "no %s in %s", field, path);
    return strtoull(line + strlen(field), NULL, base);
}

/* A field of a /proc/…/status file, such as "VmRSS:", in bytes. No allocation. */
static CHECK_UNUSED size_t check_status_of(const char *path, const char *field) {
    return check_status_number(path, field, 10) * KIB;
}

static CHECK_UNUSED size_t check_status(const char *field) {
    return check_status_of("/proc/self/status", field);
}

/* The number of threads of this process with that name. Writes the path of the last one's status file to `status`, of
 * 300 bytes, unless that is NULL. */
static CHECK_UNUSED int check_threads_called(const char *name, char *status) {
    int found = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], text[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0) continue;
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        if (length <= 0) continue;
        text[length - 1] = '\0'; /* a line end */
        if (strcmp(text, name) != 0) continue;
        found++;
        if (status != NULL) snprintf(status, 300, "/proc/self/task/%s/status", task->d_name);
    }
    closedir(tasks);
    return found;
}

#endif
