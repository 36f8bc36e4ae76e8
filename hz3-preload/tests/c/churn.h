/*
 * churn.h: threads that allocate all the time. Each takes blocks of random sizes, fills them, puts
 * them into shared slots, and verifies and frees what it finds there, so that most blocks are freed
 * by another thread than the one that took them.
 */
#ifndef CHURN_H
#define CHURN_H

#include "check.h"

#define CHURN_SLOTS 256
#define CHURN_THREADS 16

/* At the start of each block; the pattern follows. */
struct churn_block {
    size_t size;
    uint64_t seed;
};

static CHECK_UNUSED struct churn_block *churn_slots[CHURN_SLOTS];
static CHECK_UNUSED pthread_t churn_threads[CHURN_THREADS];
static CHECK_UNUSED int churn_count;
static CHECK_UNUSED int churn_stopping;
static CHECK_UNUSED unsigned long churn_steps_done;

static CHECK_UNUSED struct churn_block *churn_take(uint64_t *random) {
    uint64_t dice = check_random(random) % 100;
    size_t limit = dice < 90 ? 500 : dice < 99 ? 20000 : 600000;
    size_t size = sizeof(struct churn_block) + check_random(random) % limit;
    struct churn_block *block = (struct churn_block *)malloc(size);
    CHECK(block != NULL);
    block->size = size;
    block->seed = check_random(random);
    check_fill(block + 1, size - sizeof *block, block->seed);
    return block;
}

static CHECK_UNUSED void churn_release(struct churn_block *block) {
    if (block == NULL) return;
    check_filled(block + 1, block->size - sizeof *block, block->seed);
    free(block);
}

/* Takes one block, puts it into a slot, frees the one that was there. */
static CHECK_UNUSED void churn_step(uint64_t *random) {
    struct churn_block *block = churn_take(random);
    size_t slot = check_random(random) % CHURN_SLOTS;
    churn_release(__atomic_exchange_n(&churn_slots[slot], block, __ATOMIC_ACQ_REL));
}

static CHECK_UNUSED void churn_empty_the_slots(void) {
    for (size_t i = 0; i < CHURN_SLOTS; i++)
        churn_release(__atomic_exchange_n(&churn_slots[i], NULL, __ATOMIC_ACQ_REL));
}

static CHECK_UNUSED void *churn_run(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    while (!__atomic_load_n(&churn_stopping, __ATOMIC_RELAXED)) {
        churn_step(&random);
        __atomic_fetch_add(&churn_steps_done, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* Waits until all churning threads together have made `steps` more steps. */
static CHECK_UNUSED void churn_wait(unsigned long steps) {
    unsigned long goal = __atomic_load_n(&churn_steps_done, __ATOMIC_RELAXED) + steps;
    while (__atomic_load_n(&churn_steps_done, __ATOMIC_RELAXED) < goal) usleep(100);
}

/* Starts `count` threads and returns once they are well under way. */
static CHECK_UNUSED void churn_start(int count) {
    CHECK(count <= CHURN_THREADS);
    churn_stopping = 0;
    churn_count = count;
    for (int i = 0; i < count; i++)
        churn_threads[i] = check_thread(churn_run, (void *)(uintptr_t)(i + 1));
    churn_wait(200);
}

static CHECK_UNUSED void churn_stop(void) {
    __atomic_store_n(&churn_stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < churn_count; i++) check_join(churn_threads[i]);
    churn_empty_the_slots();
}

#endif
