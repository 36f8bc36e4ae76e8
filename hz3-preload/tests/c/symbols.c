/*
 * symbols.c: where the names of the allocation interface come from in a plain C program. Blocks of
 * two allocators mix as soon as one name is answered by another library.
 */
#include "check.h"

#include <link.h>
#include <signal.h>

static const char *const names[] = {
    /* C */
    "malloc", "free", "calloc", "realloc", "reallocarray", "posix_memalign", "aligned_alloc",
    "memalign", "valloc", "pvalloc", "malloc_usable_size", "free_sized", "free_aligned_sized",
    "cfree", "malloc_trim", "mallopt", "mallinfo", "mallinfo2", "malloc_stats", "malloc_info",
    /* operator new and new[]: plain, nothrow, aligned, aligned nothrow */
    "_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t", "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t", "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    /* operator delete and delete[]: plain, sized, nothrow, and the same three aligned */
    "_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdaPvm", "_ZdlPvRKSt9nothrow_t", "_ZdaPvRKSt9nothrow_t",
    "_ZdlPvSt11align_val_t", "_ZdaPvSt11align_val_t", "_ZdlPvmSt11align_val_t",
    "_ZdaPvmSt11align_val_t", "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    "_ZdaPvSt11align_val_tRKSt9nothrow_t",
#ifdef __GLIBC__
    /* glibc's private ones */
    "__libc_malloc", "__libc_free", "__libc_calloc", "__libc_realloc", "__libc_memalign",
    "__libc_valloc", "__libc_pvalloc", "__posix_memalign",
#endif
};

static void every_name_comes_from_the_preloaded_library(void) {
    void *library = check_library_of(check_symbol("hz3_version"));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *symbol = dlsym(RTLD_DEFAULT, names[i]);
        CHECK_THAT(symbol != NULL, "%s is missing", names[i]);
        CHECK_THAT(check_library_of(symbol) == library, "%s comes from another library", names[i]);
    }
}

/* valgrind and others tell functions by their addresses. */
static void every_name_has_an_address_of_its_own(void) {
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (size_t j = 0; j < i; j++)
            CHECK_THAT(check_symbol(names[i]) != check_symbol(names[j]), "%s is %s", names[i], names[j]);
    }
}

static int name_a_cxx_runtime(struct dl_phdr_info *info, size_t size, void *found) {
    (void)size;
    if (strstr(info->dlpi_name, "libstdc++") != NULL || strstr(info->dlpi_name, "libc++") != NULL)
        *(const char **)found = info->dlpi_name;
    return 0;
}

static void a_c_program_loads_no_cxx_runtime(void) {
    const char *found = NULL;
    void *block = malloc(100);
    CHECK(malloc(check_size(SIZE_MAX)) == NULL);
    free(block);
    dl_iterate_phdr(name_a_cxx_runtime, &found);
    CHECK_THAT(found == NULL, "%s is loaded", found);
}

static void operator_new_works_without_a_cxx_runtime(void) {
    void *(*new_)(size_t) = (void *(*)(size_t))check_symbol("_Znwm");
    void (*delete_)(void *) = (void (*)(void *))check_symbol("_ZdlPv");
    void *(*new_nothrow)(size_t, const void *) =
        (void *(*)(size_t, const void *))check_symbol("_ZnwmRKSt9nothrow_t");
    for (size_t size = 0; size <= 4 * MIB; size = size * 2 + 1) {
        void *block = new_(size);
        CHECK(block != NULL && check_aligned(block, 16));
        check_fill(block, size, 1);
        check_filled(block, size, 1);
        delete_(block);
    }
    char nothrow = 0;
    CHECK(new_nothrow(check_size(SIZE_MAX), &nothrow) == NULL);
    CHECK(new_nothrow(check_size((size_t)PTRDIFF_MAX + 1), &nothrow) == NULL);
    delete_(NULL);
}

/* There is nothing to throw with, and operator new must not return NULL. */
static void operator_new_aborts_without_a_cxx_runtime_and_without_memory(void) {
    void *(*new_)(size_t) = (void *(*)(size_t))check_symbol("_Znwm");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        new_(check_size(SIZE_MAX));
        _exit(3);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "wait status %#x", status);
}

CHECK_MAIN(CASE(every_name_comes_from_the_preloaded_library),
           CASE(every_name_has_an_address_of_its_own),
           CASE(a_c_program_loads_no_cxx_runtime),
           CASE(operator_new_works_without_a_cxx_runtime),
           CASE(operator_new_aborts_without_a_cxx_runtime_and_without_memory))
