/*
 * sized_free.c: C23's free_sized and free_aligned_sized, and cfree. The headers of older C
 * libraries lack them, so they are looked up by name.
 */
#include "check.h"
#include "sizes.h"

typedef void (*free_sized_function)(void *, size_t);
typedef void (*free_aligned_sized_function)(void *, size_t, size_t);
typedef void (*cfree_function)(void *);

static void free_sized_takes_blocks_of_every_size(void) {
    free_sized_function free_sized_ = (free_sized_function)check_symbol("free_sized");
    static struct sizes sizes;
    sizes_up_to(&sizes, 4 * MIB);
    for (size_t i = 0; i < sizes.count; i++) {
        size_t size = sizes.of[i];
        void *blocks[3] = {malloc(size), calloc(1, size), realloc(malloc(size / 2 + 1), size + 1)};
        for (int j = 0; j < 3; j++) {
            CHECK(blocks[j] != NULL);
            memset(blocks[j], 1, size);
            errno = 4321;
            free_sized_(blocks[j], j == 2 ? size + 1 : size);
            CHECK(errno == 4321);
        }
    }
}

static void free_aligned_sized_takes_blocks_of_every_alignment(void) {
    free_aligned_sized_function free_aligned_sized_ =
        (free_aligned_sized_function)check_symbol("free_aligned_sized");
    for (size_t alignment = 1; alignment <= 64 * MIB; alignment *= 2) {
        for (size_t size = 1; size <= 4 * MIB; size = size * 5 + 1) {
            void *block = aligned_alloc(check_size(alignment), size);
            CHECK(block != NULL);
            memset(block, 1, size);
            errno = 4321;
            free_aligned_sized_(block, alignment, size);
            CHECK(errno == 4321);
        }
    }
}

static void cfree_frees(void) {
    cfree_function cfree_ = (cfree_function)check_symbol("cfree");
    size_t before = check_status("VmRSS:");
    for (int round = 0; round < 2000; round++) {
        void *block = calloc(1, 100000);
        CHECK(block != NULL);
        memset(block, 1, 100000);
        errno = 4321;
        cfree_(block);
        CHECK(errno == 4321);
    }
    CHECK(check_status("VmRSS:") < before + 16 * MIB);
}

static void null_is_accepted_by_every_form(void) {
    free_sized_function free_sized_ = (free_sized_function)check_symbol("free_sized");
    free_aligned_sized_function free_aligned_sized_ =
        (free_aligned_sized_function)check_symbol("free_aligned_sized");
    cfree_function cfree_ = (cfree_function)check_symbol("cfree");
    errno = 4321;
    free_sized_(NULL, 0);
    free_sized_(NULL, 100);
    free_aligned_sized_(NULL, 16, 0);
    free_aligned_sized_(NULL, 64, 128);
    cfree_(NULL);
    CHECK(errno == 4321);
}

CHECK_MAIN(CASE(free_sized_takes_blocks_of_every_size),
           CASE(free_aligned_sized_takes_blocks_of_every_alignment),
           CASE(cfree_frees),
           CASE(null_is_accepted_by_every_form))
