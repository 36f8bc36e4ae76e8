/*
 * faults.h: system calls that fail on demand. The program's own mmap, munmap, mremap, mprotect and madvise come
 * before the C library's in every lookup, so that the allocator's calls arrive here; those of other libraries and
 * of the program itself are passed on. The C library's own calls (thread stacks, fork) do not come by.
 *
 * To be compiled with -rdynamic. FAULTS_FROM_START=N refuses every N-th call from the process's first one on.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include "check.h"

#include <link.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#ifndef FAULTS_FROM_START
#define FAULTS_FROM_START 0
#endif

enum { FAULT_MMAP = 1, FAULT_MUNMAP = 2, FAULT_MREMAP = 4, FAULT_MPROTECT = 8, FAULT_MADVISE = 16, FAULT_ALL = 31 };

/* Which calls are refused: those of `kinds` whose number is a multiple of `every`, or comes after `last`. */
static CHECK_UNUSED struct {
    int kinds;
    unsigned long every, last;
    unsigned long calls, refused;
} faults = {FAULTS_FROM_START ? FAULT_ALL : 0, FAULTS_FROM_START, 0, 0, 0};

/* Where the allocator's code lies; empty means that all calls count. */
static CHECK_UNUSED uintptr_t faults_begin, faults_end;

static CHECK_UNUSED int faults_hit(int kind, const void *caller) {
    if ((__atomic_load_n(&faults.kinds, __ATOMIC_RELAXED) & kind) == 0) return 0;
    uintptr_t from = (uintptr_t)caller;
    if (faults_end != 0 && (from < faults_begin || from >= faults_end)) return 0;
    unsigned long call = __atomic_add_fetch(&faults.calls, 1, __ATOMIC_RELAXED);
    int is_hit = (faults.every != 0 && call % faults.every == 0) || (faults.last != 0 && call >= faults.last);
    if (!is_hit) return 0;
    __atomic_add_fetch(&faults.refused, 1, __ATOMIC_RELAXED);
    errno = ENOMEM;
    return 1;
}

#define FAULTS_EXPORT __attribute__((visibility("default"), noinline))
#define FAULTS_CALLER __builtin_return_address(0)

FAULTS_EXPORT void *mmap(void *at, size_t bytes, int rights, int flags, int file, off_t offset) {
    if (faults_hit(FAULT_MMAP, FAULTS_CALLER)) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, bytes, rights, flags, file, offset);
}

FAULTS_EXPORT int munmap(void *at, size_t bytes) {
    if (faults_hit(FAULT_MUNMAP, FAULTS_CALLER)) return -1;
    return (int)syscall(SYS_munmap, at, bytes);
}

FAULTS_EXPORT void *mremap(void *at, size_t old_bytes, size_t bytes, int flags, ...) {
    if (faults_hit(FAULT_MREMAP, FAULTS_CALLER)) return MAP_FAILED;
    if (flags & MREMAP_FIXED) abort(); /* The fifth argument: nobody here gives one. */
    return (void *)syscall(SYS_mremap, at, old_bytes, bytes, flags, NULL);
}

FAULTS_EXPORT int mprotect(void *at, size_t bytes, int rights) {
    if (faults_hit(FAULT_MPROTECT, FAULTS_CALLER)) return -1;
    return (int)syscall(SYS_mprotect, at, bytes, rights);
}

FAULTS_EXPORT int madvise(void *at, size_t bytes, int advice) {
    if (faults_hit(FAULT_MADVISE, FAULTS_CALLER)) return -1;
    return (int)syscall(SYS_madvise, at, bytes, advice);
}

/* dl_iterate_phdr: the extent of the object that holds malloc. */
static CHECK_UNUSED int faults_find(struct dl_phdr_info *object, size_t size, void *wanted) {
    (void)size;
    uintptr_t begin = UINTPTR_MAX, end = 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type != PT_LOAD) continue;
        uintptr_t first = object->dlpi_addr + part->p_vaddr;
        if (first < begin) begin = first;
        if (first + part->p_memsz > end) end = first + part->p_memsz;
    }
    if ((uintptr_t)wanted < begin || (uintptr_t)wanted >= end) return 0;
    faults_begin = begin;
    faults_end = end;
    return 1;
}

/* From here on only the allocator's calls count. */
static CHECK_UNUSED void faults_only_for_the_allocator(void) {
    CHECK(dl_iterate_phdr(faults_find, dlsym(RTLD_DEFAULT, "malloc")) == 1);
}

static CHECK_UNUSED void faults_begin_with(int kinds, unsigned long every, unsigned long last) {
    faults.every = every;
    faults.last = last;
    faults.calls = faults.refused = 0;
    __atomic_store_n(&faults.kinds, kinds, __ATOMIC_RELEASE);
}

static CHECK_UNUSED void faults_stop(void) { __atomic_store_n(&faults.kinds, 0, __ATOMIC_RELEASE); }

#endif
