/*
 * misuse_cases.c: what a fault of the program does to the heap. `PROGRAM FAULT SIZE` commits one fault on a block of
 * SIZE bytes, then uses the heap as a program would go on to do. Works under any allocator.
 *
 * `--list` prints the faults' names, `--library` the file that serves malloc.
 *
 * Exit status: 0 nobody noticed and no harm was seen, 3 one address was served twice at a time (what an attacker
 * wants), 4 a live block's bytes changed; 1 and a line for a failure of the program itself. 77 the
 * allocator lacks the function. All else is the allocator's answer.
 */
#include "check.h"

#include <sys/mman.h>
#include <sys/resource.h>

/* More than the thread caches that we know hold of a small block, and few enough to be quick at 1 MiB. */
enum { OTHERS_SMALL = 600, OTHERS_LARGE = 40, AFTERWARDS_SMALL = 2000, AFTERWARDS_LARGE = 60 };
enum { TWICE = 3, CHANGED = 4, FOREIGN = 64 };

static size_t size;

static int is_large(void) { return size > 256 * KIB; }

static void *take(void) {
    void *block = malloc(check_size(size));
    CHECK(block != NULL);
    memset(block, 1, size);
    return check_opaque(block);
}

static void give(void *block) { free(check_opaque(block)); }

/* The control: whatever an allocator answers here, it answers to the heap's ordinary use. */
static void no_fault(void) { give(take()); }

/* ---- the faults -------------------------------------------------------------------------- */

static void double_free_at_once(void) {
    void *block = take();
    give(block);
    give(block);
}

static void double_free_after_another(void) {
    void *block = take(), *other = take();
    give(block);
    give(other);
    give(block);
}

static void double_free_after_many(void) {
    static void *others[OTHERS_SMALL];
    int count = is_large() ? OTHERS_LARGE : OTHERS_SMALL;
    for (int i = 0; i < count; i++) others[i] = take();
    void *block = take();
    give(block);
    for (int i = 0; i < count; i++) give(others[i]);
    give(block);
}

static int to_the_thread[2];

static void *give_when_told(void *block) {
    char word;
    CHECK(read(to_the_thread[0], &word, 1) == 1);
    give(block);
    return NULL;
}

/* The thread starts before the first free: what its start allocates could else lie where the block was. */
static void double_free_from_another_thread(void) {
    void *block = take();
    CHECK(pipe(to_the_thread) == 0);
    pthread_t thread = check_thread(give_when_told, block);
    give(block);
    CHECK(write(to_the_thread[1], "", 1) == 1);
    check_join(thread);
}

static void free_of_an_interior_pointer(void) { give((char *)take() + size / 2); }

static void free_of_an_unaligned_pointer(void) { give((char *)take() + 1); }

static void free_of_a_stack_pointer(void) {
    char on_the_stack[FOREIGN] __attribute__((aligned(16)));
    memset(on_the_stack, 0, sizeof on_the_stack);
    give(on_the_stack + 16);
}

static void free_of_a_static_pointer(void) {
    static char in_the_data_segment[FOREIGN] __attribute__((aligned(16)));
    give(in_the_data_segment + 16);
}

static void free_of_an_unmapped_pointer(void) {
    char *page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && munmap(page, 8192) == 0);
    give(page + 4096);
}

/* The same size again: most allocators leave the block where it is, if they take it for a block. */
static void realloc_of_a_freed_block(void) {
    void *block = take();
    give(block);
    give(realloc(check_opaque(block), check_size(size)));
}

static void free_sized_with_a_wrong_size(void) {
    void (*sized)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    if (sized == NULL || check_library_of((void *)sized) != check_library_of(dlsym(RTLD_DEFAULT, "malloc")))
        check_skip("this allocator has no free_sized");
    sized(take(), check_size(size * 4));
}

/* Beyond what the block may use, not merely beyond what was asked for; its neighbour is whoever lies there. */
static void overflow_into_the_neighbour(void) {
    void *before = take();
    char *block = take();
    void *after = take();
    char *end = block + malloc_usable_size(block);
    memset(check_opaque(end), 0x41, 32);
    give(block);
    give(before);
    give(after);
}

/* One byte, the 0 at the end of a string, behind what was asked for. */
static void overflow_by_one_byte(void) {
    char *block = take();
    *(volatile char *)((char *)check_opaque(block) + size) = 0;
    give(block);
}

/* Far beyond, without a gap. */
static void overflow_by_a_page(void) {
    void *before = take();
    char *block = take();
    void *after = take();
    memset(check_opaque(block + size), 0x41, 4096);
    give(block);
    give(before);
    give(after);
}

/* The memory must not have become another block's so soon. */
static void use_after_free_shortly_after(void) {
    enum { AFTER = 20 };
    void *others[AFTER];
    char *block = take();
    give(block);
    for (int i = 0; i < AFTER; i++) others[i] = take();
    memset(check_opaque(block), 0x41, 32);
    for (int i = 0; i < AFTER; i++) give(others[i]);
}

static void double_free_after_reuse(void) {
    enum { AFTER = 20 };
    void *others[AFTER];
    void *block = take();
    give(block);
    for (int i = 0; i < AFTER; i++) others[i] = take();
    give(block);
    /* The others are live, so that none of them may be served again. */
    for (int i = 0; i < AFTER; i++) {
        void *again = take();
        for (int j = 0; j < AFTER; j++)
            if (again == others[j]) _exit(TWICE);
    }
}

static void write_after_free(void) {
    void *block = take();
    give(block);
    memset(check_opaque(block), 0x41, 32);
}

/* ---- afterwards -------------------------------------------------------------------------- */

/* Not qsort, which allocates in some C libraries. */
static void sort_by_address(void **blocks, int count) {
    for (int i = 1; i < count; i++) {
        void *block = blocks[i];
        int place = i;
        for (; place > 0 && (uintptr_t)blocks[place - 1] > (uintptr_t)block; place--) blocks[place] = blocks[place - 1];
        blocks[place] = block;
    }
}

static uint64_t seed_of(void *block) { return (uintptr_t)block; }

/* Takes many blocks, looks whether two of them overlap or lose their bytes, gives them back. */
static int harm_to_the_heap(void) {
    static void *blocks[AFTERWARDS_SMALL];
    int count = is_large() ? AFTERWARDS_LARGE : AFTERWARDS_SMALL;
    /* 20000 bytes each would be 40 MB: enough to run through every cache, little enough to be quick. */
    for (int i = 0; i < count; i++) {
        blocks[i] = malloc(check_size(size));
        CHECK(blocks[i] != NULL);
        check_fill(blocks[i], size < 64 ? size : 64, seed_of(blocks[i]));
    }
    sort_by_address(blocks, count);
    for (int i = 1; i < count; i++)
        if ((uintptr_t)blocks[i] - (uintptr_t)blocks[i - 1] < size) return TWICE;
    for (int i = 0; i < count; i++)
        for (size_t word = 0; word < 64 / 8 && word * 8 < size; word++) {
            uint64_t held;
            memcpy(&held, (char *)blocks[i] + 8 * word, 8);
            if (held != check_pattern_word(seed_of(blocks[i]), word)) return CHANGED;
        }
    for (int i = 0; i < count; i++) give(blocks[i]);
    return 0;
}

static const struct check_case faults[] = {
    CASE(no_fault),
    CASE(double_free_at_once),
    CASE(double_free_after_another),
    CASE(double_free_after_many),
    CASE(double_free_from_another_thread),
    CASE(free_of_an_interior_pointer),
    CASE(free_of_an_unaligned_pointer),
    CASE(free_of_a_stack_pointer),
    CASE(free_of_a_static_pointer),
    CASE(free_of_an_unmapped_pointer),
    CASE(realloc_of_a_freed_block),
    CASE(free_sized_with_a_wrong_size),
    CASE(overflow_into_the_neighbour),
    CASE(overflow_by_one_byte),
    CASE(overflow_by_a_page),
    CASE(write_after_free),
    CASE(use_after_free_shortly_after),
    CASE(double_free_after_reuse),
};

int main(int argc, char **argv) {
    const size_t count = sizeof faults / sizeof faults[0];
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < count; i++) printf("%s\n", faults[i].name);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--library") == 0) {
        Dl_info info;
        CHECK(dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info) != 0);
        printf("%s\n", info.dli_fname);
        return 0;
    }
    /* Most runs end by a signal; nobody wants their cores. */
    const struct rlimit no_core = {0, 0};
    CHECK(setrlimit(RLIMIT_CORE, &no_core) == 0);
    CHECK_THAT(argc == 3, "usage: %s FAULT SIZE", argv[0]);
    size = strtoul(argv[2], NULL, 10);
    CHECK_THAT(size >= 64, "a size of at least 64 bytes");
    for (size_t i = 0; i < count; i++) {
        if (strcmp(argv[1], faults[i].name) != 0) continue;
        faults[i].run();
        int harm = harm_to_the_heap();
        /* Not exit(): what the C library does at the end is not what is looked at. */
        if (harm == 0) harm = harm_to_the_heap();
        _exit(harm);
    }
    check_fail(__FILE__, __LINE__, "no fault is called %s", argv[1]);
}
