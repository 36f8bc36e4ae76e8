/* A library in the place of libc's calls to the kernel, which tells the program of each before it makes it. */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Set by the program. */
void (*calls_listener)(const char *name);

static void tell(const char *name) {
    void (*listener)(const char *) = __atomic_load_n(&calls_listener, __ATOMIC_ACQUIRE);
    if (listener) listener(name);
}

void *mmap(void *start, size_t size, int protection, int flags, int file, off_t offset) {
    tell("mmap");
    return (void *)syscall(SYS_mmap, start, size, protection, flags, file, offset);
}

int munmap(void *start, size_t size) {
    tell("munmap");
    return (int)syscall(SYS_munmap, start, size);
}

int mprotect(void *start, size_t size, int protection) {
    tell("mprotect");
    return (int)syscall(SYS_mprotect, start, size, protection);
}

int madvise(void *start, size_t size, int advice) {
    tell("madvise");
    return (int)syscall(SYS_madvise, start, size, advice);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    tell("clock_gettime");
    return (int)syscall(SYS_clock_gettime, clock, time);
}
