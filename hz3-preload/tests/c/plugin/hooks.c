/*
 * A library in the place of libc's calls to the kernel, as profilers, tracers and communication libraries are. It
 * allocates in each of them, keeps some blocks for a while, and checks that nobody else writes to them.
 */
#include "../check.h"

#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#define KEPT 16

/* Initial-exec: the usual access may allocate. */
#define PER_THREAD static __thread __attribute__((tls_model("initial-exec")))

PER_THREAD int inside, ending;
PER_THREAD uint64_t count;
PER_THREAD struct {
    void *block;
    size_t size;
    uint64_t seed;
} kept[KEPT];

/* Calls met so far, for the program: hook by hook. */
enum { MMAP, MUNMAP, MPROTECT, MADVISE, CLOCK_GETTIME, HOOKS };
unsigned long hooked_calls[HOOKS];

static void release(size_t slot) {
    if (kept[slot].block == NULL) return;
    check_filled(kept[slot].block, kept[slot].size, kept[slot].seed);
    free(kept[slot].block);
    kept[slot].block = NULL;
}

static void take(size_t size) {
    size_t slot = check_random(&count) % KEPT;
    release(slot);
    kept[slot].block = malloc(size);
    CHECK(kept[slot].block != NULL);
    kept[slot].size = size;
    kept[slot].seed = check_random(&count);
    check_fill(kept[slot].block, size, kept[slot].seed);
    if (ending) release(slot);
}

static void note(int hook) {
    int error = errno;
    __atomic_fetch_add(&hooked_calls[hook], 1, __ATOMIC_RELAXED);
    if (!inside) {
        inside = 1;
        take(16 + check_random(&count) % 300);
        take(16 + check_random(&count) % 6000);
        if (check_random(&count) % 8 == 0) take(40000 + check_random(&count) % 3000000);
        void *resized = realloc(malloc(100 + check_random(&count) % 3000), 5000);
        CHECK(resized != NULL);
        free(resized);
        inside = 0;
    }
    errno = error;
}

/* For a thread that is about to end: from now on no block is kept. */
void hooks_release_all(void) {
    ending = inside = 1;
    for (size_t slot = 0; slot < KEPT; slot++) release(slot);
    inside = 0;
}

void *mmap(void *start, size_t size, int protection, int flags, int file, off_t offset) {
    note(MMAP);
    return (void *)syscall(SYS_mmap, start, size, protection, flags, file, offset);
}

int munmap(void *start, size_t size) {
    note(MUNMAP);
    return (int)syscall(SYS_munmap, start, size);
}

int mprotect(void *start, size_t size, int protection) {
    note(MPROTECT);
    return (int)syscall(SYS_mprotect, start, size, protection);
}

int madvise(void *start, size_t size, int advice) {
    note(MADVISE);
    return (int)syscall(SYS_madvise, start, size, advice);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    note(CLOCK_GETTIME);
    return (int)syscall(SYS_clock_gettime, clock, time);
}
