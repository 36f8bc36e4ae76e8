/*
 * alignment.c: posix_memalign, aligned_alloc, memalign, valloc and pvalloc: every power of two up
 * to 1 GiB, and what they do with alignments that are none.
 */
#include "check.h"

#define LARGEST_ALIGNMENT GIB

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static const size_t not_powers_of_two[] = {3, 5, 7, 9, 12, 24, 40, 48, 100, 4095, 4097, 12288};
#define NOT_POWERS (sizeof not_powers_of_two / sizeof not_powers_of_two[0])

/* Checks a block of the asked alignment, writes it (only its ends if it is large), frees it. */
static void check_block(void *block, size_t alignment, size_t size) {
    CHECK_THAT(block != NULL, "alignment %zu, size %zu: %s", alignment, size, strerror(errno));
    CHECK_THAT(check_aligned(block, alignment), "alignment %zu, size %zu: %p", alignment, size,
               block);
    CHECK(malloc_usable_size(block) >= size);
    if (size <= MIB) {
        check_fill(block, size, alignment);
        check_filled(block, size, alignment);
    } else {
        ((volatile char *)block)[0] = 1;
        ((volatile char *)block)[size - 1] = 1;
    }
    free(block);
}

static const size_t some_sizes[] = {0,    1,    15,   16,    17,    63,        64,      100,
                                    1000, 4096, 5000, 32768, 40000, 3 * 65536, 2 << 20, 5 << 20};
#define SIZES (sizeof some_sizes / sizeof some_sizes[0])

static void posix_memalign_honours_every_power_of_two(void) {
    for (size_t alignment = sizeof(void *); alignment <= LARGEST_ALIGNMENT; alignment *= 2) {
        for (size_t i = 0; i < SIZES; i++) {
            void *block = NULL;
            errno = 4321;
            int error = posix_memalign(&block, alignment, some_sizes[i]);
            CHECK_THAT(error == 0, "posix_memalign(%zu, %zu): %s", alignment, some_sizes[i],
                       strerror(error));
            CHECK(errno == 4321);
            check_block(block, alignment, some_sizes[i]);
        }
    }
}

static void aligned_alloc_honours_every_power_of_two(void) {
    for (size_t alignment = 1; alignment <= LARGEST_ALIGNMENT; alignment *= 2)
        for (size_t i = 0; i < SIZES; i++)
            check_block(aligned_alloc(check_size(alignment), some_sizes[i]), alignment,
                        some_sizes[i]);
}

static void memalign_honours_every_power_of_two(void) {
    for (size_t alignment = 1; alignment <= LARGEST_ALIGNMENT; alignment *= 2)
        for (size_t i = 0; i < SIZES; i++)
            check_block(memalign(check_size(alignment), some_sizes[i]), alignment, some_sizes[i]);
}

static void valloc_and_pvalloc_align_to_the_page(void) {
    void *(*pvalloc_function)(size_t) = (void *(*)(size_t))check_symbol("pvalloc");
    void *(*valloc_function)(size_t) = (void *(*)(size_t))check_symbol("valloc");
    for (size_t i = 0; i < SIZES; i++) {
        size_t whole_pages = (some_sizes[i] + page_size() - 1) / page_size() * page_size();
        check_block(valloc_function(some_sizes[i]), page_size(), some_sizes[i]);
        check_block(pvalloc_function(some_sizes[i]), page_size(), whole_pages);
    }
    const size_t impossible[] = {SIZE_MAX, SIZE_MAX - 4000, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX};
    for (size_t i = 0; i < 4; i++) {
        errno = 0;
        CHECK(valloc_function(check_size(impossible[i])) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(pvalloc_function(check_size(impossible[i])) == NULL && errno == ENOMEM);
    }
}

static void live_aligned_blocks_do_not_overlap(void) {
    enum { BLOCKS = 3000 };
    static struct {
        void *block;
        size_t size;
    } live[BLOCKS];
    uint64_t random = check_seed();
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < BLOCKS; i++) {
            size_t alignment = (size_t)8 << (check_random(&random) % 10);
            live[i].size = check_random(&random) % 3000;
            if (i % 100 == 99) alignment = 64 * KIB, live[i].size *= 100;
            CHECK(posix_memalign(&live[i].block, alignment, live[i].size) == 0);
            CHECK_THAT(check_aligned(live[i].block, alignment), "%zu bytes aligned to %zu at %p",
                       live[i].size, alignment, live[i].block);
            check_fill(live[i].block, live[i].size, i);
        }
        for (size_t step = 0; step < BLOCKS; step++) {
            size_t i = step * 1009 % BLOCKS;
            check_filled(live[i].block, live[i].size, i);
            free(live[i].block);
        }
    }
}

static void posix_memalign_refuses_bad_alignments(void) {
    static char untouched;
    size_t bad[NOT_POWERS + 7] = {0, 1, 2, 4, SIZE_MAX, SIZE_MAX / 2, (size_t)PTRDIFF_MAX + 9};
    memcpy(bad + 7, not_powers_of_two, sizeof not_powers_of_two);
    for (size_t i = 0; i < NOT_POWERS + 7; i++) {
        for (size_t j = 0; j < SIZES; j++) {
            void *block = &untouched;
            errno = 4321;
            int error = posix_memalign(&block, check_size(bad[i]), some_sizes[j]);
            CHECK_THAT(error == EINVAL, "posix_memalign(%zu, %zu) gave %d", bad[i], some_sizes[j],
                       error);
            CHECK(block == &untouched);
            CHECK(errno == 4321);
        }
    }
}

static void posix_memalign_without_memory_says_so_in_errno_too_and_leaves_the_pointer(void) {
    static char untouched;
    const size_t impossible[] = {SIZE_MAX, SIZE_MAX - 15, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX,
                                 (size_t)1 << 47};
    for (size_t alignment = sizeof(void *); alignment <= LARGEST_ALIGNMENT; alignment *= 2) {
        for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; i++) {
            void *block = &untouched;
            errno = 4321;
            CHECK(posix_memalign(&block, alignment, check_size(impossible[i])) == ENOMEM);
            CHECK(block == &untouched);
            CHECK_THAT(errno == ENOMEM, "posix_memalign set errno to %d", errno);
        }
    }
}

static void aligned_alloc_refuses_bad_alignments(void) {
    for (size_t i = 0; i <= NOT_POWERS; i++) {
        size_t alignment = i == NOT_POWERS ? 0 : not_powers_of_two[i];
        errno = 0;
        void *block = aligned_alloc(check_size(alignment), 4 * alignment);
        CHECK_THAT(block == NULL, "aligned_alloc(%zu, …) gave %p", alignment, block);
        CHECK_THAT(errno == EINVAL, "aligned_alloc(%zu, …): errno is %d", alignment, errno);
    }
}

/* glibc rounds such an alignment up; its manual asks for a power of two. Both will do. */
static void memalign_refuses_or_rounds_up_bad_alignments(void) {
    for (size_t i = 0; i < NOT_POWERS; i++) {
        size_t power = 1;
        while (power < not_powers_of_two[i]) power *= 2;
        errno = 0;
        void *block = memalign(check_size(not_powers_of_two[i]), 100);
        if (block == NULL)
            CHECK(errno == EINVAL);
        else
            check_block(block, power, 100);
    }
}

static void an_impossible_size_or_alignment_fails(void) {
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 15, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX};
    for (size_t alignment = 1; alignment <= LARGEST_ALIGNMENT; alignment *= 2) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            errno = 0;
            CHECK(aligned_alloc(check_size(alignment), check_size(sizes[i])) == NULL);
            CHECK(errno == ENOMEM);
            errno = 0;
            CHECK(memalign(check_size(alignment), check_size(sizes[i])) == NULL);
            CHECK(errno == ENOMEM);
        }
    }
    /* Powers of two, but beyond any address space. */
    for (int shift = 48; shift < 64; shift++) {
        void *block = NULL;
        size_t alignment = check_size((size_t)1 << shift);
        CHECK(posix_memalign(&block, alignment, 1) == ENOMEM);
        errno = 0;
        CHECK(aligned_alloc(alignment, 1) == NULL);
        CHECK(errno == ENOMEM || errno == EINVAL);
        errno = 0;
        CHECK(memalign(alignment, 1) == NULL);
        CHECK(errno == ENOMEM || errno == EINVAL);
    }
    check_block(malloc(100), 16, 100);
}

static void freed_aligned_memory_is_used_again(void) {
    for (size_t alignment = 32; alignment <= 16 * MIB; alignment *= 8) {
        size_t rounds = 64 * GIB / alignment < 20000 ? 64 * GIB / alignment : 20000;
        size_t before = check_status("VmRSS:");
        for (size_t round = 0; round < rounds; round++) {
            void *block = NULL;
            CHECK(posix_memalign(&block, alignment, 5000) == 0);
            memset(block, 1, 5000);
            free(block);
        }
        size_t after = check_status("VmRSS:");
        CHECK_THAT(after < before + 16 * MIB, "alignment %zu: resident memory from %zu to %zu",
                   alignment, before, after);
    }
}

CHECK_MAIN(CASE(posix_memalign_honours_every_power_of_two),
           CASE(aligned_alloc_honours_every_power_of_two),
           CASE(memalign_honours_every_power_of_two),
           CASE(valloc_and_pvalloc_align_to_the_page),
           CASE(live_aligned_blocks_do_not_overlap),
           CASE(posix_memalign_refuses_bad_alignments),
           CASE(posix_memalign_without_memory_says_so_in_errno_too_and_leaves_the_pointer),
           CASE(aligned_alloc_refuses_bad_alignments),
           CASE(memalign_refuses_or_rounds_up_bad_alignments),
           CASE(an_impossible_size_or_alignment_fails),
           CASE(freed_aligned_memory_is_used_again))
