/*
 * misuse.c: faults that must stop the process. Each case prints `pointer 0x…` on stdout, the
 * pointer that it is about to misuse, and then misuses it; to reach the end is to fail.
 */
#include "check.h"

#include <signal.h>
#include <sys/mman.h>

enum { SMALL = 64, MEDIUM = 6000, LARGE = 1 << 20 };

/* Announces the pointer and hides from the compiler what is going to happen to it. */
static void *announce(void *pointer) {
    dprintf(STDOUT_FILENO, "pointer %p\n", pointer);
    return check_opaque(pointer);
}

static void *take(size_t size) {
    void *block = malloc(size);
    CHECK(block != NULL);
    memset(block, 1, size);
    return block;
}

static void free_of_a_stack_pointer(void) {
    char on_the_stack[64] __attribute__((aligned(16)));
    free(announce(on_the_stack));
}

static void free_of_a_static_pointer(void) {
    static char in_the_data_segment[64] __attribute__((aligned(16)));
    free(announce(in_the_data_segment));
}

static void free_of_an_unmapped_pointer(void) {
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && munmap(page, 4096) == 0);
    free(announce(page));
}

static void free_of_a_small_number(void) { free(announce((void *)0x40)); }

/* Not a canonical address: to read there is a fault of the processor. */
static void free_of_text(void) { free(announce((void *)0x4141414141414140)); }

static void free_of_the_highest_address(void) { free(announce((void *)(UINTPTR_MAX - 15))); }

static void free_of_a_mapping_of_the_program(void) {
    void *page = mmap(NULL, 1 << 21, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    free(announce(page));
}

/* Small blocks are looked at when they leave the thread's cache, at the latest by malloc_trim. */
static void free_inside_then_trim(size_t size, size_t offset) {
    free(announce((char *)take(size) + offset));
    malloc_trim(0);
}

static void free_inside_a_small_block_that_goes_home(void) { free_inside_then_trim(SMALL, 16); }

static void free_inside_a_medium_block_that_goes_home(void) { free_inside_then_trim(MEDIUM, 4096); }

static void free_of_an_unaligned_pointer_that_goes_home(void) { free_inside_then_trim(SMALL, 1); }

static void free_inside_a_large_block(void) { free(announce((char *)take(LARGE) + 65536)); }

static void free_of_an_unaligned_pointer_into_a_large_block(void) {
    free(announce((char *)take(LARGE) + 8));
}

static void double_free(size_t size) {
    void *block = announce(take(size));
    free(block);
    free(check_opaque(block));
}

static void double_free_then_trim(size_t size) {
    double_free(size);
    malloc_trim(0);
}

static void double_free_of_a_small_block_that_goes_home(void) { double_free_then_trim(SMALL); }

static void double_free_of_a_medium_block_that_goes_home(void) { double_free_then_trim(MEDIUM); }

static void double_free_of_a_large_block(void) { double_free(LARGE); }

/* What a crash reporter does: it allocates, also of the size at fault, and lets the process die. */
static void report(int number) {
    (void)number;
    void *blocks[200];
    for (int i = 0; i < 200; i++) {
        blocks[i] = malloc(i % 2 ? SMALL : (size_t)i * 50);
        if (blocks[i] == NULL) _exit(99);
    }
    for (int i = 0; i < 200; i++) free(blocks[i]);
}

static void a_handler_of_the_abort_allocates(void) {
    CHECK(signal(SIGABRT, report) != SIG_ERR);
    /* Where the handler hangs, the process dies of another signal than the one expected. */
    alarm(20);
    double_free_then_trim(SMALL);
}

static void realloc_of_a_freed_large_block(void) {
    void *block = announce(take(LARGE));
    free(block);
    free(realloc(check_opaque(block), 2 * LARGE));
}

static void realloc_of_a_stack_pointer(void) {
    char on_the_stack[64] __attribute__((aligned(16)));
    free(realloc(announce(on_the_stack), 100));
}

CHECK_MAIN(CASE(free_of_a_stack_pointer),
           CASE(free_of_a_static_pointer),
           CASE(free_of_an_unmapped_pointer),
           CASE(free_of_a_small_number),
           CASE(free_of_text),
           CASE(free_of_the_highest_address),
           CASE(free_of_a_mapping_of_the_program),
           CASE(free_inside_a_small_block_that_goes_home),
           CASE(free_inside_a_medium_block_that_goes_home),
           CASE(free_inside_a_large_block),
           CASE(free_of_an_unaligned_pointer_that_goes_home),
           CASE(free_of_an_unaligned_pointer_into_a_large_block),
           CASE(double_free_of_a_small_block_that_goes_home),
           CASE(double_free_of_a_medium_block_that_goes_home),
           CASE(double_free_of_a_large_block),
           CASE(a_handler_of_the_abort_allocates),
           CASE(realloc_of_a_freed_large_block),
           CASE(realloc_of_a_stack_pointer))
