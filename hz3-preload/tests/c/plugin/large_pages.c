/*
 * large_pages.c: a system with pages of PAGE bytes, on one with shorter ones. Stands in the place of libc's functions, says so,
 * maps at multiples of PAGE, and stops the process where hz3 names a range that is not whole pages: a system with such pages
 * refuses or rounds it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REACH 4 /* MREMAP_DONTUNMAP */

static uintptr_t from, to;

static int find(struct dl_phdr_info *library, size_t size, void *unused) {
    (void)size, (void)unused;
    if (strstr(library->dlpi_name, "hakozuna") == NULL) return 0;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &library->dlpi_phdr[i];
        uintptr_t start = library->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X)) from = start, to = start + part->p_memsz;
    }
    return 1;
}

static void check(const char *call, const void *caller, const void *start, size_t bytes) {
    static int is_known;
    if (!is_known) {
        is_known = 1;
        dl_iterate_phdr(find, NULL);
    }
    uintptr_t from_there = (uintptr_t)caller;
    if (from_there < from || from_there >= to || bytes == 0) return;
    if ((uintptr_t)start % PAGE == 0 && bytes % PAGE == 0) return;
    char text[128];
    int length = snprintf(text, sizeof text, "hz3 calls %s for %#zx bytes at %p\n", call, bytes, start);
    if (write(STDERR_FILENO, text, (size_t)length) > 0) abort();
}

static void *result(long value) { return (void *)value; }

static void *reserve(size_t bytes, int rights, int flags) {
    char *all = result(syscall(SYS_mmap, NULL, bytes + PAGE, rights, flags, -1, 0L));
    if (all == MAP_FAILED) return all;
    char *start = (char *)(((uintptr_t)all + PAGE - 1) / PAGE * PAGE), *end = start + bytes;
    if (start > all) syscall(SYS_munmap, all, start - all);
    if (end < all + bytes + PAGE) syscall(SYS_munmap, end, all + bytes + PAGE - end);
    return start;
}

void *mmap(void *start, size_t bytes, int rights, int flags, int file, off_t offset) {
    if (flags & MAP_ANONYMOUS) check("mmap", __builtin_return_address(0), start, bytes);
    if (start == NULL && flags & MAP_ANONYMOUS && bytes % PAGE == 0 && bytes > 0) return reserve(bytes, rights, flags);
    return result(syscall(SYS_mmap, start, bytes, rights, flags, file, offset));
}

int munmap(void *start, size_t bytes) {
    check("munmap", __builtin_return_address(0), start, bytes);
    return (int)syscall(SYS_munmap, start, bytes);
}

int madvise(void *start, size_t bytes, int advice) {
    check("madvise", __builtin_return_address(0), start, bytes);
    return (int)syscall(SYS_madvise, start, bytes, advice);
}

int mprotect(void *start, size_t bytes, int rights) {
    check("mprotect", __builtin_return_address(0), start, bytes);
    return (int)syscall(SYS_mprotect, start, bytes, rights);
}

int mincore(void *start, size_t bytes, unsigned char *pages) {
    check("mincore", __builtin_return_address(0), start, bytes);
    /* One byte for each page, which has memory if its first part has. */
    for (size_t page = 0; page < bytes; page += PAGE)
        if (syscall(SYS_mincore, (char *)start + page, 1, &pages[page / PAGE]) != 0) return -1;
    return 0;
}

void *mremap(void *start, size_t bytes, size_t wanted, int flags, ...) {
    check("mremap", __builtin_return_address(0), start, bytes);
    check("mremap", __builtin_return_address(0), start, wanted);
    if (!(flags & REACH)) {
        void *here = result(syscall(SYS_mremap, start, bytes, wanted, flags & ~MREMAP_MAYMOVE, NULL));
        if (here != MAP_FAILED || !(flags & MREMAP_MAYMOVE)) return here;
    }
    void *there = reserve(wanted, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    if (there == MAP_FAILED) return there;
    void *moved = result(syscall(SYS_mremap, start, bytes, wanted, flags | MREMAP_FIXED, there));
    if (moved == MAP_FAILED) {
        int error = errno;
        syscall(SYS_munmap, there, wanted);
        errno = error;
    }
    return moved;
}

unsigned long getauxval(unsigned long type) {
    static unsigned long values[64][2];
    if (values[0][0] == 0) {
        long file = syscall(SYS_openat, AT_FDCWD, "/proc/self/auxv", O_RDONLY | O_CLOEXEC);
        if (file < 0 || syscall(SYS_read, file, values, sizeof values) < 16) abort();
        syscall(SYS_close, file);
    }
    if (type == AT_PAGESZ) return PAGE;
    for (int i = 0; i < 64 && values[i][0] != AT_NULL; i++)
        if (values[i][0] == type) return values[i][1];
    errno = ENOENT;
    return 0;
}

long sysconf(int name) {
    if (name == _SC_PAGESIZE) return PAGE;
    static long (*next)(int);
    if (next == NULL) *(void **)&next = dlsym(RTLD_NEXT, "sysconf");
    return next(name);
}

int getpagesize(void) { return PAGE; }
