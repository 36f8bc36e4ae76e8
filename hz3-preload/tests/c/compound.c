/*
 * compound.c: what hz3 makes of the basic functions, while plugin/heap.c's are preloaded before it: blocks come from that
 * heap and go back to it. Behind hz3 that heap is nobody's.
 */
#include "check.h"

typedef void (*free_sized_function)(void *, size_t);
typedef void (*free_aligned_sized_function)(void *, size_t, size_t);

static int (*heap_owns)(const void *);

static void *of_the_heap(void *block, size_t size, size_t alignment) {
    CHECK(block != NULL && check_aligned(block, alignment));
    heap_owns = (int (*)(const void *))dlsym(RTLD_DEFAULT, "heap_owns");
    CHECK_THAT(heap_owns != NULL, "plugin/heap.c is not preloaded");
    int is_first = check_library_of(dlsym(RTLD_DEFAULT, "malloc")) == check_library_of((void *)heap_owns);
    CHECK_THAT(heap_owns(block) == is_first, "a block of another heap than malloc's");
    memset(block, 1, size);
    return block;
}

static void further_functions_give_blocks_that_free_takes(void) {
    for (size_t size = 1; size < MIB; size = size * 7 + 3) {
        free(of_the_heap(malloc(size), size, 16));
        free(of_the_heap(calloc(1, size), size, 16));
        free(of_the_heap(realloc(malloc(size), size), size, 16));
        free(of_the_heap(reallocarray(NULL, 3, size), 3 * size, 16));
        free(of_the_heap(reallocarray(malloc(size), 3, size), 3 * size, 16));
        free(of_the_heap(memalign(64, size), size, 64));
        free(of_the_heap(aligned_alloc(64, size), size, 64));
        free(of_the_heap(valloc(size), size, 4096));
        free(of_the_heap(pvalloc(size), size, 4096));
        void *block = NULL;
        CHECK(posix_memalign(&block, 256, size) == 0);
        free(of_the_heap(block, size, 256));
    }
}

static void further_functions_take_blocks_that_malloc_gives(void) {
    void (*cfree_)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    free_sized_function free_sized_ = (free_sized_function)dlsym(RTLD_DEFAULT, "free_sized");
    free_aligned_sized_function free_aligned_sized_ =
        (free_aligned_sized_function)dlsym(RTLD_DEFAULT, "free_aligned_sized");
    CHECK(cfree_ != NULL && free_sized_ != NULL && free_aligned_sized_ != NULL);
    for (size_t size = 1; size < MIB; size = size * 7 + 3) {
        cfree_(malloc(size));
        free_sized_(malloc(size), size);
        free_aligned_sized_(aligned_alloc(64, size), 64, size);
    }
}

static void further_functions_still_check_what_they_are_asked(void) {
    void *block = &block;
    errno = 0;
    CHECK(aligned_alloc(check_size(48), 100) == NULL && errno == EINVAL);
    CHECK(posix_memalign(&block, check_size(4), 100) == EINVAL && block == &block);
    errno = 0;
    CHECK(reallocarray(NULL, check_size(SIZE_MAX / 2), 3) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(pvalloc(check_size(SIZE_MAX)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(posix_memalign(&block, 64, check_size(SIZE_MAX / 2)) == ENOMEM && errno == ENOMEM && block == &block);
}

static void operators_pair(void) {
    void *(*new_)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
    void (*delete_)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "_ZdlPvm");
    void *(*new_array)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znam");
    void (*delete_array)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "_ZdaPv");
    CHECK(new_ != NULL && delete_ != NULL && new_array != NULL && delete_array != NULL);
    for (size_t size = 1; size < MIB; size = size * 7 + 3) {
        delete_(new_(size), size);
        delete_array(new_array(size));
    }
}

CHECK_MAIN(CASE(further_functions_give_blocks_that_free_takes), CASE(further_functions_take_blocks_that_malloc_gives),
           CASE(further_functions_still_check_what_they_are_asked), CASE(operators_pair))
