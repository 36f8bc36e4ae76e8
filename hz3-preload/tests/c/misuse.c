/*
 * misuse.c: faults that must stop the process. Each case prints `pointer 0x…` on stdout, the
 * pointer that it is about to misuse, and then misuses it; to reach the end is to fail.
 */
#include "check.h"

#include <signal.h>
#include <sys/mman.h>

/* TINY is the least slot, BIG one of the largest, MAPPED a mapping of its own. */
enum { TINY = 16, SMALL = 64, MEDIUM = 6000, BIG = 20000, LARGE = 1 << 20, MAPPED = 256 << 20 };

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

/* Without marks, a small block that is free already is noticed when it goes home. */
static void double_free_then_trim(size_t size) {
    double_free(size);
    malloc_trim(0);
}

static void double_free_of_a_small_block_that_goes_home(void) { double_free_then_trim(SMALL); }

static void double_free_of_a_medium_block_that_goes_home(void) { double_free_then_trim(MEDIUM); }

/* A pointer into a block is looked at when its magazine is handed on, without anyone asking. */
static void free_inside_a_block_then_many_frees(void) {
    enum { COUNT = 1000 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) blocks[i] = take(SMALL);
    free(announce((char *)blocks[0] + 16));
    for (int i = 1; i < COUNT; i++) free(blocks[i]);
}

static void double_free_of_a_tiny_block(void) { double_free(TINY); }

static void double_free_of_a_small_block(void) { double_free(SMALL); }

static void double_free_of_a_medium_block(void) { double_free(MEDIUM); }

static void double_free_of_a_big_block(void) { double_free(BIG); }

static void double_free_of_a_large_block(void) { double_free(LARGE); }

static void double_free_of_a_mapped_block(void) { double_free(MAPPED); }

static void double_free_of_a_block_never_written(void) {
    void *block = announce(malloc(SMALL));
    free(block);
    free(check_opaque(block));
}

static void double_free_of_a_reused_block(void) {
    void *first = take(SMALL);
    free(first);
    /* Which free slot is handed out is not always the last one. */
    void *block = NULL;
    for (int i = 0; i < 10000 && block != first; i++) {
        block = take(SMALL);
        if (block != first) free(block);
    }
    CHECK(block == first);
    free(announce(block));
    free(check_opaque(block));
}

static void double_free_of_an_aligned_block(void) {
    void *block = announce(aligned_alloc(256, 256));
    free(block);
    free(check_opaque(block));
}

static void double_free_of_a_zeroed_block(void) {
    void *block = announce(calloc(4, 100));
    free(block);
    free(check_opaque(block));
}

static void double_free_of_what_realloc_left(void) {
    void *block = announce(take(SMALL));
    void *moved = realloc(block, BIG);
    CHECK(moved != NULL && moved != block);
    free(check_opaque(block));
}

/* Frees the block again after `between` others of its size, allocated before, were freed. */
static void double_free_after(size_t size, int between) {
    static void *others[2000];
    for (int i = 0; i < between; i++) others[i] = take(size);
    void *block = announce(take(size));
    /* Keeps the span in use wherever the block goes. */
    void *neighbour = take(size);
    free(block);
    for (int i = 0; i < between; i++) free(others[i]);
    free(check_opaque(block));
    free(neighbour);
}

static void double_free_interleaved_of_a_tiny_block(void) { double_free_after(TINY, 1); }

static void double_free_interleaved_of_a_small_block(void) { double_free_after(SMALL, 1); }

static void double_free_interleaved_of_a_big_block(void) { double_free_after(BIG, 1); }

static void double_free_after_hundreds_of_tiny_blocks(void) { double_free_after(TINY, 2000); }

static void double_free_after_hundreds_of_small_blocks(void) { double_free_after(SMALL, 2000); }

static void double_free_after_hundreds_of_big_blocks(void) { double_free_after(BIG, 300); }

static void double_free_of_a_block_at_home(void) {
    void *block = announce(take(SMALL));
    void *neighbour = take(SMALL);
    free(block);
    malloc_trim(0);
    free(check_opaque(block));
    free(neighbour);
}

static void *free_it(void *block) {
    free(block);
    return NULL;
}

static void in_a_thread(void *(*work)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, work, argument) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void double_free_by_another_thread_of(size_t size) {
    void *block = announce(take(size));
    void *neighbour = take(size);
    free(block);
    in_a_thread(free_it, check_opaque(block));
    free(neighbour);
}

static void double_free_by_another_thread_of_a_small_block(void) { double_free_by_another_thread_of(SMALL); }

static void double_free_by_another_thread_of_a_big_block(void) { double_free_by_another_thread_of(BIG); }

static void double_free_of_what_another_thread_freed(void) {
    void *block = announce(take(SMALL));
    void *neighbour = take(SMALL);
    in_a_thread(free_it, check_opaque(block));
    free(check_opaque(block));
    free(neighbour);
}

enum { MANY = 600 };
static void *many[MANY];

static void *free_most(void *unused) {
    for (int i = 0; i < MANY - 1; i++) free(many[i]);
    return unused;
}

/* The thread's full magazines lie in depots and inboxes, the rest is at home. */
static void double_free_of_blocks_in_depots(void) {
    for (int i = 0; i < MANY; i++) many[i] = take(SMALL);
    void *block = announce(many[MANY / 3]);
    in_a_thread(free_most, NULL);
    free(check_opaque(block));
}

/* The block is looked at when it is handed out again, which may take as many calls as there are free slots. */
static void write_after_free(size_t size, size_t offset, int at_home) {
    char *block = announce(take(size));
    void *neighbour = take(size);
    free(block);
    if (at_home) malloc_trim(0);
    ((volatile char *)check_opaque(block))[offset] ^= 1;
    /* What is freed after it drives it out of quarantine. */
    for (int i = 0; i < 600; i++) free(take(size));
    for (int i = 0; i < 2000; i++) CHECK(malloc(size) != NULL);
    free(neighbour);
}

static void write_after_free_to_a_tiny_block(void) { write_after_free(TINY, 0, 0); }

static void write_after_free_to_a_small_block(void) { write_after_free(SMALL, SMALL - 1, 0); }

static void write_after_free_to_the_mark_of_a_small_block(void) { write_after_free(SMALL, 8, 0); }

static void write_after_free_to_a_medium_block(void) { write_after_free(MEDIUM, 4096, 0); }

static void write_after_free_to_a_big_block(void) { write_after_free(BIG, BIG - 1, 0); }

static void write_after_free_to_a_block_at_home(void) { write_after_free(SMALL, 32, 1); }

/* No slot of a span that is given up is handed out again. */
static void write_after_free_to_a_block_whose_span_is_given_up(void) {
    for (int i = 0; i < MANY; i++) many[i] = take(SMALL);
    char *block = announce(many[MANY / 2 + 1]);
    for (int i = 1; i < MANY; i += 2) free(many[i]);
    malloc_trim(0);
    ((volatile char *)check_opaque(block))[32] ^= 1;
    for (int i = 0; i < MANY; i += 2) free(many[i]);
    malloc_trim(0);
}

static void free_inside_a_small_block_at_once(void) { free(announce((char *)take(SMALL) + 16)); }

static void free_inside_a_big_block_at_once(void) { free(announce((char *)take(BIG) + 4096)); }

/* One byte, a 0, behind what was asked for: what a string's end most often is. */
static void overflow(size_t size) {
    char *block = announce(take(size));
    ((volatile char *)check_opaque(block))[size] = 0;
    free(block);
}

static void overflow_of_a_tiny_block(void) { overflow(TINY); }

static void overflow_of_a_small_block(void) { overflow(SMALL); }

static void overflow_of_a_small_block_with_room(void) { overflow(SMALL + 1); }

static void overflow_of_a_medium_block(void) { overflow(MEDIUM); }

static void overflow_of_a_big_block(void) { overflow(BIG); }

/* Not whole pages: right behind those a write is a fault of the processor. */
static void overflow_of_a_large_block(void) { overflow(LARGE + 1); }

static void overflow_of_a_mapped_block(void) { overflow(MAPPED + 1); }

static void overflow_of_an_empty_block(void) { overflow(0); }

static void overflow_found_by_free_sized(void) {
    char *block = announce(take(SMALL));
    ((volatile char *)check_opaque(block))[SMALL + 7] ^= 1;
    void (*release)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    CHECK(release != NULL);
    release(block, SMALL);
}

/* What realloc leaves where it is has its canary right behind the new end. */
static void overflow_after_realloc_in_place(void) {
    char *block = (char *)realloc(take(MEDIUM), MEDIUM - 8);
    announce(block);
    ((volatile char *)check_opaque(block))[MEDIUM - 8] = 0;
    free(block);
}

static void overflow_found_by_realloc(size_t size) {
    char *block = announce(take(size));
    ((volatile char *)check_opaque(block))[size] = 0;
    free(realloc(check_opaque(block), 2 * size));
}

static void overflow_found_by_realloc_of_a_small_block(void) { overflow_found_by_realloc(SMALL); }

static void overflow_found_by_realloc_of_a_large_block(void) { overflow_found_by_realloc(LARGE + 1); }

/* Long enough that the slot would have been handed out again without a quarantine, where one is handed out at all. */
static void double_free_after_reuse(size_t size) {
    enum { AFTER = 20 };
    void *others[AFTER];
    void *block = take(size);
    free(announce(block));
    for (int i = 0; i < AFTER; i++) others[i] = take(size);
    for (int i = 0; i < AFTER; i++) CHECK_THAT(others[i] != block, "handed out again");
    free(check_opaque(block));
}

static void double_free_after_reuse_of_a_small_block(void) { double_free_after_reuse(SMALL); }

static void double_free_after_reuse_of_a_big_block(void) { double_free_after_reuse(BIG); }

static void double_free_after_reuse_of_a_large_block(void) { double_free_after_reuse(LARGE); }

/* The headers of the C library need not have these yet. */
static void free_with_size(const char *function, void *block, size_t size) {
    void (*release)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, function);
    CHECK(release != NULL);
    release(announce(block), size);
}

static void free_sized_of_more_than_a_small_block(void) { free_with_size("free_sized", take(SMALL), SMALL + 1); }

static void free_sized_of_less_than_a_medium_block(void) { free_with_size("free_sized", take(MEDIUM), SMALL); }

static void free_sized_of_one_byte_less(void) { free_with_size("free_sized", take(MEDIUM), MEDIUM - 1); }

static void free_sized_of_less_than_a_large_block(void) { free_with_size("free_sized", take(LARGE), LARGE - 1); }

static void free_sized_of_more_than_a_large_block(void) { free_with_size("free_sized", take(LARGE), 2 * LARGE); }

static void free_aligned_sized_of_more_than_a_block(void) {
    void (*release)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    CHECK(release != NULL);
    release(announce(aligned_alloc(256, 256)), 256, 512);
}

static void sized_delete_of_more_than_a_block(void) { free_with_size("_ZdlPvm", take(SMALL), BIG); }

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

static void realloc_of_a_freed(size_t size, size_t new_size) {
    void *block = announce(take(size));
    free(block);
    free(realloc(check_opaque(block), new_size));
}

static void realloc_of_a_freed_small_block(void) { realloc_of_a_freed(SMALL, 2 * SMALL); }

static void realloc_of_a_freed_small_block_in_place(void) { realloc_of_a_freed(SMALL, SMALL); }

static void realloc_of_a_freed_big_block(void) { realloc_of_a_freed(BIG, LARGE); }

static void realloc_inside_a_small_block(void) { free(realloc(announce((char *)take(SMALL) + 16), SMALL)); }

static void realloc_inside_a_big_block(void) { free(realloc(announce((char *)take(BIG) + 4096), 2 * BIG)); }

static void usable_size_of_a_freed_block(void) {
    void *block = announce(take(SMALL));
    free(block);
    _exit(malloc_usable_size(check_opaque(block)) != 0);
}

static void usable_size_inside_a_block(void) { _exit(malloc_usable_size(announce((char *)take(BIG) + 4096)) != 0); }

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
           CASE(free_of_an_unaligned_pointer_that_goes_home),
           CASE(free_inside_a_large_block),
           CASE(free_of_an_unaligned_pointer_into_a_large_block),
           CASE(free_inside_a_block_then_many_frees),
           CASE(double_free_of_a_small_block_that_goes_home),
           CASE(double_free_of_a_medium_block_that_goes_home),
           CASE(double_free_of_a_tiny_block),
           CASE(double_free_of_a_small_block),
           CASE(double_free_of_a_medium_block),
           CASE(double_free_of_a_big_block),
           CASE(double_free_of_a_large_block),
           CASE(double_free_of_a_mapped_block),
           CASE(double_free_of_a_block_never_written),
           CASE(double_free_of_a_reused_block),
           CASE(double_free_of_an_aligned_block),
           CASE(double_free_of_a_zeroed_block),
           CASE(double_free_of_what_realloc_left),
           CASE(double_free_interleaved_of_a_tiny_block),
           CASE(double_free_interleaved_of_a_small_block),
           CASE(double_free_interleaved_of_a_big_block),
           CASE(double_free_after_hundreds_of_tiny_blocks),
           CASE(double_free_after_hundreds_of_small_blocks),
           CASE(double_free_after_hundreds_of_big_blocks),
           CASE(double_free_of_a_block_at_home),
           CASE(double_free_by_another_thread_of_a_small_block),
           CASE(double_free_by_another_thread_of_a_big_block),
           CASE(double_free_of_what_another_thread_freed),
           CASE(double_free_of_blocks_in_depots),
           CASE(write_after_free_to_a_tiny_block),
           CASE(write_after_free_to_a_small_block),
           CASE(write_after_free_to_the_mark_of_a_small_block),
           CASE(write_after_free_to_a_medium_block),
           CASE(write_after_free_to_a_big_block),
           CASE(write_after_free_to_a_block_at_home),
           CASE(write_after_free_to_a_block_whose_span_is_given_up),
           CASE(free_inside_a_small_block_at_once),
           CASE(free_inside_a_big_block_at_once),
           CASE(free_sized_of_more_than_a_small_block),
           CASE(free_sized_of_less_than_a_medium_block),
           CASE(free_sized_of_more_than_a_large_block),
           CASE(free_aligned_sized_of_more_than_a_block),
           CASE(sized_delete_of_more_than_a_block),
           CASE(a_handler_of_the_abort_allocates),
           CASE(realloc_of_a_freed_large_block),
           CASE(realloc_of_a_freed_small_block),
           CASE(realloc_of_a_freed_small_block_in_place),
           CASE(realloc_of_a_freed_big_block),
           CASE(realloc_inside_a_small_block),
           CASE(realloc_inside_a_big_block),
           CASE(usable_size_of_a_freed_block),
           CASE(usable_size_inside_a_block),
           CASE(realloc_of_a_stack_pointer),
           CASE(overflow_of_a_tiny_block),
           CASE(overflow_of_a_small_block),
           CASE(overflow_of_a_small_block_with_room),
           CASE(overflow_of_a_medium_block),
           CASE(overflow_of_a_big_block),
           CASE(overflow_of_a_large_block),
           CASE(overflow_of_a_mapped_block),
           CASE(overflow_of_an_empty_block),
           CASE(overflow_found_by_free_sized),
           CASE(overflow_after_realloc_in_place),
           CASE(overflow_found_by_realloc_of_a_small_block),
           CASE(overflow_found_by_realloc_of_a_large_block),
           CASE(double_free_after_reuse_of_a_small_block),
           CASE(double_free_after_reuse_of_a_big_block),
           CASE(double_free_after_reuse_of_a_large_block),
           CASE(free_sized_of_one_byte_less),
           CASE(free_sized_of_less_than_a_large_block))
