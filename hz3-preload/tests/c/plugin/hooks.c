/*
 * A library in the place of the functions of libc that hz3 calls, as profilers, tracers and communication libraries are.
 * It allocates in each of them, keeps some blocks for a while, and checks that nobody else writes to them.
 *
 * The calls go on to the kernel, or to the next library of that name; that is looked up at the call, because the first
 * ones come before any constructor.
 */
#include "../check.h"

#include <dirent.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#define KEPT 16

/* Initial-exec: the usual access may allocate. Volatile: malloc is declared a leaf, which calls nobody here. */
#define PER_THREAD static __thread __attribute__((tls_model("initial-exec"))) volatile

PER_THREAD int inside, ending;
static __thread __attribute__((tls_model("initial-exec"))) uint64_t count;
PER_THREAD struct {
    void *block;
    size_t size;
    uint64_t seed;
} kept[KEPT];

#define HOOKS(X)                                                                                                  \
    X(mmap) X(munmap) X(mprotect) X(madvise) X(mremap) X(mincore) X(clock_gettime) X(nanosleep) X(getauxval)       \
    X(getrlimit) X(getpid) X(prctl) X(open) X(read) X(write) X(close) X(readlink) X(stat) X(fwrite)                \
    X(pthread_key_create) X(pthread_setspecific) X(pthread_create) X(pthread_attr_init)                            \
    X(pthread_attr_setdetachstate) X(pthread_attr_setstacksize) X(pthread_attr_destroy) X(pthread_sigmask)         \
    X(sigfillset) X(pthread_setcancelstate) X(__register_atfork) X(dl_iterate_phdr) X(dlopen) X(dlsym) X(abort)    \
    X(syscall)

#define NUMBER(name) HOOK_##name,
#define NAME(name) #name,
enum { HOOKS(NUMBER) HOOK_COUNT };
static const char *const names[] = {HOOKS(NAME)};
static unsigned long calls[HOOK_COUNT];

/* Calls met so far of the function `name`, for the program. */
unsigned long hooked_calls(const char *name) {
    for (int hook = 0; hook < HOOK_COUNT; hook++)
        if (strcmp(names[hook], name) == 0) return __atomic_load_n(&calls[hook], __ATOMIC_RELAXED);
    return 0;
}

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
    __atomic_fetch_add(&calls[hook], 1, __ATOMIC_RELAXED);
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

static void *next(const char *name) {
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    void *(*look_up)(void *, const char *) = NULL;
    for (int i = 0; i < 3 && look_up == NULL; i++)
        look_up = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    CHECK(look_up != NULL);
    void *found = strcmp(name, "dlsym") == 0 ? (void *)look_up : look_up(RTLD_NEXT, name);
    CHECK_THAT(found != NULL, "%s", name);
    return found;
}

/* Looked up once: a lookup takes the loader's lock, in children too. */
static void *nexts[HOOK_COUNT];

__attribute__((constructor)) static void look_up_all(void) {
    for (int hook = 0; hook < HOOK_COUNT; hook++) nexts[hook] = next(names[hook]);
}

static void *next_of(int hook) { return nexts[hook] != NULL ? nexts[hook] : next(names[hook]); }

/* A hook whose call goes to the next function of its name. */
#define PASSED_ON(result, name, parameters, arguments)                                                             \
    result name parameters {                                                                                       \
        note(HOOK_##name);                                                                                         \
        return ((result(*) parameters)next_of(HOOK_##name))arguments;                                                       \
    }

/* A hook whose call goes to the kernel. */
#define TO_KERNEL(result, name, parameters, ...)                                                                   \
    result name parameters {                                                                                       \
        note(HOOK_##name);                                                                                         \
        return (result)kernel(__VA_ARGS__);                                                                        \
    }

/* The system call through the next library's syscall(2): this one's is hooked. */
static long kernel(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    return ((long (*)(long, ...))next_of(HOOK_syscall))(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#define L(argument) ((long)(argument))

/* The child of a fork in the middle of the making of the statistics page, which alone is a shared mapping. */
int hooks_is_child;

void *mmap(void *start, size_t size, int protection, int flags, int file, off_t offset) {
    note(HOOK_mmap);
    void *mapped = (void *)kernel(SYS_mmap, L(start), L(size), L(protection), L(flags), L(file), L(offset));
    static int is_done;
    if ((flags & MAP_SHARED) && getenv("PRELOAD_TEST_FORK") && !__atomic_exchange_n(&is_done, 1, __ATOMIC_RELAXED)) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            hooks_is_child = 1;
        } else {
            check_child_passed(child);
        }
    }
    return mapped;
}

TO_KERNEL(int, munmap, (void *start, size_t size), SYS_munmap, L(start), L(size), 0L, 0L, 0L, 0L)
TO_KERNEL(int, mprotect, (void *start, size_t size, int protection), SYS_mprotect, L(start), L(size), L(protection), 0L,
          0L, 0L)
TO_KERNEL(int, madvise, (void *start, size_t size, int advice), SYS_madvise, L(start), L(size), L(advice), 0L, 0L, 0L)
TO_KERNEL(int, mincore, (void *start, size_t size, unsigned char *pages), SYS_mincore, L(start), L(size), L(pages), 0L,
          0L, 0L)
TO_KERNEL(int, nanosleep, (const struct timespec *time, struct timespec *rest), SYS_nanosleep, L(time), L(rest), 0L, 0L,
          0L, 0L)
TO_KERNEL(int, getrlimit, (__rlimit_resource_t resource, struct rlimit *limit), SYS_prlimit64, 0L, L(resource), 0L,
          L(limit), 0L, 0L)
TO_KERNEL(pid_t, getpid, (void), SYS_getpid, 0L, 0L, 0L, 0L, 0L, 0L)
TO_KERNEL(ssize_t, read, (int file, void *to, size_t size), SYS_read, L(file), L(to), L(size), 0L, 0L, 0L)
TO_KERNEL(ssize_t, write, (int file, const void *from, size_t size), SYS_write, L(file), L(from), L(size), 0L, 0L, 0L)
TO_KERNEL(int, close, (int file), SYS_close, L(file), 0L, 0L, 0L, 0L, 0L)
TO_KERNEL(ssize_t, readlink, (const char *path, char *to, size_t size), SYS_readlinkat, L(AT_FDCWD), L(path), L(to),
          L(size), 0L, 0L)
TO_KERNEL(int, stat, (const char *path, struct stat *out), SYS_newfstatat, L(AT_FDCWD), L(path), L(out), 0L, 0L, 0L)

void *mremap(void *start, size_t old_size, size_t size, int flags, ...) {
    va_list list;
    va_start(list, flags);
    void *place = flags & MREMAP_FIXED ? va_arg(list, void *) : NULL;
    va_end(list);
    note(HOOK_mremap);
    return (void *)kernel(SYS_mremap, L(start), L(old_size), L(size), L(flags), L(place), 0L);
}

int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    int mode = flags & O_CREAT ? va_arg(list, int) : 0;
    va_end(list);
    note(HOOK_open);
    return (int)kernel(SYS_openat, L(AT_FDCWD), L(path), L(flags), L(mode), 0L, 0L);
}

int prctl(int option, ...) {
    long a[4];
    va_list list;
    va_start(list, option);
    for (int i = 0; i < 4; i++) a[i] = va_arg(list, long);
    va_end(list);
    note(HOOK_prctl);
    return (int)kernel(SYS_prctl, L(option), a[0], a[1], a[2], a[3], 0L);
}

/* No call of hz3's own comes here: it may be made while locks are held. */
long syscall(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    note(HOOK_syscall);
    return kernel(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* For programs: hz3 reads the kernel's clocks. */
TO_KERNEL(int, clock_gettime, (clockid_t clock, struct timespec *time), SYS_clock_gettime, L(clock), L(time), 0L, 0L, 0L,
          0L)

PASSED_ON(unsigned long, getauxval, (unsigned long type), (type))
PASSED_ON(size_t, fwrite, (const void *from, size_t size, size_t number, FILE *to), (from, size, number, to))
PASSED_ON(int, pthread_key_create, (pthread_key_t * key, void (*destructor)(void *)), (key, destructor))
PASSED_ON(int, pthread_setspecific, (pthread_key_t key, const void *value), (key, value))
PASSED_ON(int, pthread_create,
          (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument),
          (thread, attributes, run, argument))
PASSED_ON(int, pthread_attr_init, (pthread_attr_t * attributes), (attributes))
PASSED_ON(int, pthread_attr_setdetachstate, (pthread_attr_t * attributes, int state), (attributes, state))
PASSED_ON(int, pthread_attr_setstacksize, (pthread_attr_t * attributes, size_t size), (attributes, size))
PASSED_ON(int, pthread_attr_destroy, (pthread_attr_t * attributes), (attributes))
PASSED_ON(int, pthread_sigmask, (int how, const sigset_t *set, sigset_t *before), (how, set, before))
PASSED_ON(int, sigfillset, (sigset_t * set), (set))
PASSED_ON(int, pthread_setcancelstate, (int state, int *before), (state, before))
int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
PASSED_ON(int, __register_atfork, (void (*before)(void), void (*parent)(void), void (*child)(void), void *object),
          (before, parent, child, object))
PASSED_ON(int, dl_iterate_phdr,
          (int (*visit)(struct dl_phdr_info *, size_t, void *), void *argument), (visit, argument))
static void *pass_dlopen(const char *path, int mode) {
    note(HOOK_dlopen);
    return ((void *(*)(const char *, int))next_of(HOOK_dlopen))(path, mode);
}
void *dlopen(const char *path, int mode) { return pass_dlopen(path, mode); }
/* RTLD_NEXT means the caller's next one. hz3 asks for `dlopen`, and this library's is next if it stands behind hz3. */
void *dlsym(void *handle, const char *name) {
    note(HOOK_dlsym);
    if (handle == RTLD_NEXT && strcmp(name, "dlopen") == 0 &&
        check_library_of((void *)dlopen) != check_library_of((void *)next_of))
        return (void *)pass_dlopen;
    return ((void *(*)(void *, const char *))next_of(HOOK_dlsym))(handle, name);
}

void abort(void) {
    note(HOOK_abort);
    ((void (*)(void))next_of(HOOK_abort))();
    __builtin_unreachable();
}
