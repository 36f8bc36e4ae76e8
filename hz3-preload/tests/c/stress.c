/*
 * stress.c: threads that mix every entry point at random and pass their blocks around. Each block
 * is filled with a pattern of its own and verified when it is freed, so that any overlap, any lost
 * byte and any block handed out twice shows. Bounded by the number of operations; seeded.
 */
#include "check.h"

#include <sched.h>

#define THREADS 4
#define SLOTS 1024

typedef void (*free_function)(void *);
typedef void (*free_sized_function)(void *, size_t);
typedef void (*free_aligned_sized_function)(void *, size_t, size_t);

static free_sized_function free_sized_;
static free_aligned_sized_function free_aligned_sized_;
static free_function cfree_;
static void *(*pvalloc_)(size_t);

/* How a block may be freed: what C23 allows for the function that it came from. */
enum origin { FROM_MALLOC, FROM_ALIGNED_ALLOC, FROM_ELSEWHERE };

struct block {
    void *memory;
    size_t size, alignment;
    uint64_t seed;
    enum origin origin;
};

struct slot {
    pthread_mutex_t lock;
    struct block block;
};

static struct slot slots[SLOTS];
static uint64_t seed;

static void fill(struct block *block, uint64_t *random) {
    CHECK_THAT(block->memory != NULL, "no memory for %zu bytes", block->size);
    /* Some allocators align the smallest blocks to 8 bytes only; malloc.c holds hz3 to 16. */
    size_t alignment = block->size < 16 && block->alignment == 16 ? 8 : block->alignment;
    CHECK_THAT(check_aligned(block->memory, alignment), "%zu bytes aligned to %zu at %p",
               block->size, alignment, block->memory);
    block->seed = check_random(random);
    check_fill(block->memory, block->size, block->seed);
}

static struct block take(uint64_t *random) {
    struct block block = {NULL, check_random_size(random), 16, 0, FROM_MALLOC};
    uint64_t dice = check_random(random) % 100;
    if (dice >= 88) block.alignment = (size_t)16 << (check_random(random) % 14);
    if (dice < 60) {
        block.memory = malloc(block.size);
    } else if (dice < 75) {
        block.memory = calloc(1 + block.size / 7, 7);
        block.size = (1 + block.size / 7) * 7;
        CHECK(block.memory != NULL);
        check_zeroed(block.memory, block.size);
    } else if (dice < 82) {
        block.memory = realloc(NULL, block.size);
    } else if (dice < 88) {
        block.size = 3 * (1 + block.size / 3);
        block.memory = reallocarray(NULL, 3, block.size / 3);
    } else if (dice < 91) {
        block.origin = FROM_ELSEWHERE;
        CHECK(posix_memalign(&block.memory, block.alignment, block.size) == 0);
    } else if (dice < 95) {
        block.origin = FROM_ALIGNED_ALLOC;
        block.memory = aligned_alloc(block.alignment, block.size);
    } else if (dice < 97) {
        block.origin = FROM_ELSEWHERE;
        block.memory = memalign(block.alignment, block.size);
    } else {
        block.origin = FROM_ELSEWHERE;
        block.alignment = 4096;
        block.memory = dice == 99 && pvalloc_ != NULL ? pvalloc_(block.size) : valloc(block.size);
    }
    fill(&block, random);
    return block;
}

static void release(const struct block *block, uint64_t *random) {
    if (block->memory == NULL) return;
    check_filled(block->memory, block->size, block->seed);
    uint64_t dice = check_random(random) % 4;
    if (block->origin == FROM_MALLOC && dice == 0 && free_sized_ != NULL)
        free_sized_(block->memory, block->size);
    else if (block->origin == FROM_ALIGNED_ALLOC && dice < 2 && free_aligned_sized_ != NULL)
        free_aligned_sized_(block->memory, block->alignment, block->size);
    else if (dice == 3 && cfree_ != NULL)
        cfree_(block->memory);
    else
        free(block->memory);
}

/* Grows or shrinks the block, mostly to a size of the same order. */
static void resize(struct block *block, uint64_t *random) {
    if (block->memory == NULL) return;
    size_t size = check_random(random) % 4 == 0 ? check_random_size(random)
                                                : 1 + check_random(random) % (2 * block->size);
    check_filled(block->memory, block->size, block->seed);
    void *memory = realloc(block->memory, size);
    CHECK_THAT(memory != NULL, "no memory for %zu bytes", size);
    check_filled(memory, size < block->size ? size : block->size, block->seed);
    *block = (struct block){memory, size, 16, 0, FROM_MALLOC};
    fill(block, random);
}

static void operate(uint64_t *random) {
    struct slot *slot = &slots[check_random(random) % SLOTS];
    uint64_t dice = check_random(random) % 1000;
    if (dice < 700) {
        struct block old, new_block = take(random);
        pthread_mutex_lock(&slot->lock);
        old = slot->block;
        slot->block = new_block;
        pthread_mutex_unlock(&slot->lock);
        release(&old, random);
    } else if (dice < 850) {
        struct block old;
        pthread_mutex_lock(&slot->lock);
        old = slot->block;
        slot->block.memory = NULL;
        pthread_mutex_unlock(&slot->lock);
        release(&old, random);
    } else if (dice < 999) {
        pthread_mutex_lock(&slot->lock);
        if (slot->block.memory != NULL)
            CHECK(malloc_usable_size(slot->block.memory) >= slot->block.size);
        resize(&slot->block, random);
        pthread_mutex_unlock(&slot->lock);
    } else if (check_random(random) % 20 == 0) {
        malloc_trim(0);
    }
}

static void *operate_repeatedly(void *stream) {
    uint64_t random = seed + (uint64_t)(uintptr_t)stream * 1000003;
    for (int i = 0; i < 40000; i++) operate(&random);
    return NULL;
}

static void prepare(void) {
    seed = check_seed();
    free_sized_ = (free_sized_function)check_symbol_if_any("free_sized");
    free_aligned_sized_ = (free_aligned_sized_function)check_symbol_if_any("free_aligned_sized");
    cfree_ = (free_function)check_symbol_if_any("cfree");
    pvalloc_ = (void *(*)(size_t))check_symbol_if_any("pvalloc");
    for (int i = 0; i < SLOTS; i++) CHECK(pthread_mutex_init(&slots[i].lock, NULL) == 0);
}

static void release_all(void) {
    uint64_t random = seed;
    for (int i = 0; i < SLOTS; i++) {
        release(&slots[i].block, &random);
        slots[i].block.memory = NULL;
    }
}

static void threads_mix_every_entry_point_and_pass_blocks_around(void) {
    pthread_t threads[THREADS];
    prepare();
    for (uintptr_t i = 0; i < THREADS; i++)
        threads[i] = check_thread(operate_repeatedly, (void *)i);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    release_all();
}

static void *operate_briefly(void *stream) {
    uint64_t random = seed + (uint64_t)(uintptr_t)stream * 1000003;
    for (int i = 0; i < 60; i++) operate(&random);
    return NULL;
}

static void short_lived_threads_mix_every_entry_point(void) {
    prepare();
    for (uintptr_t round = 0; round < 500; round++) {
        pthread_t threads[THREADS];
        for (uintptr_t i = 0; i < THREADS; i++)
            threads[i] = check_thread(operate_briefly, (void *)(round * THREADS + i));
        for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    }
    release_all();
}

/* ---- one way: some threads only allocate, the others only free ---------------------------- */

#define RING 512
#define PASSED 50000

struct ring {
    struct block blocks[RING];
    unsigned long written, read;
};

static struct ring rings[2];

static void *produce(void *index) {
    struct ring *ring = &rings[(uintptr_t)index];
    uint64_t random = seed + (uint64_t)(uintptr_t)index;
    for (unsigned long i = 0; i < PASSED; i++) {
        while (i - __atomic_load_n(&ring->read, __ATOMIC_ACQUIRE) >= RING) sched_yield();
        ring->blocks[i % RING] = take(&random);
        __atomic_store_n(&ring->written, i + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void *consume(void *index) {
    struct ring *ring = &rings[(uintptr_t)index];
    uint64_t random = seed + 99 + (uint64_t)(uintptr_t)index;
    for (unsigned long i = 0; i < PASSED; i++) {
        while (__atomic_load_n(&ring->written, __ATOMIC_ACQUIRE) == i) sched_yield();
        release(&ring->blocks[i % RING], &random);
        __atomic_store_n(&ring->read, i + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void some_threads_only_allocate_and_others_only_free(void) {
    pthread_t threads[4];
    prepare();
    for (uintptr_t i = 0; i < 2; i++) {
        threads[2 * i] = check_thread(produce, (void *)i);
        threads[2 * i + 1] = check_thread(consume, (void *)i);
    }
    for (int i = 0; i < 4; i++) check_join(threads[i]);
    size_t peak = check_status("VmHWM:");
    CHECK_THAT(peak < 512 * MIB, "%zu bytes resident for at most %d live blocks", peak, 2 * RING);
}

CHECK_MAIN(CASE(threads_mix_every_entry_point_and_pass_blocks_around),
           CASE(short_lived_threads_mix_every_entry_point),
           CASE(some_threads_only_allocate_and_others_only_free))
