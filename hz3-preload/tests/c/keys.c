/*
 * keys.c: thread-specific data whose destructors allocate and free, over every round that the C
 * library grants them, with keys made before the allocator's first call and after. Some of these
 * destructors run after the allocator has already said goodbye to the thread.
 */
#include "check.h"

#include "churn.h"

#define LATE_KEYS 40
#define THREADS 50

struct value {
    pthread_key_t key;
    int rounds_left;
    void *block;
    size_t size;
};

static pthread_key_t early_key;
static pthread_key_t late_keys[LATE_KEYS];
static unsigned long destructions;

/* Frees the value; with rounds left, sets a new one, so that the C library comes round again. */
static void destroy(void *pointer) {
    struct value *value = (struct value *)pointer;
    __atomic_fetch_add(&destructions, 1, __ATOMIC_RELAXED);
    check_filled(value->block, value->size, value->size);
    uint64_t random = value->size;
    for (int i = 0; i < 5; i++) churn_step(&random);
    if (value->rounds_left > 0) {
        struct value *next = (struct value *)calloc(1, sizeof *next);
        CHECK(next != NULL);
        next->key = value->key;
        next->rounds_left = value->rounds_left - 1;
        next->size = value->size * 2 + 1;
        next->block = realloc(value->block, next->size);
        CHECK(next->block != NULL);
        check_filled(next->block, value->size, value->size);
        check_fill(next->block, next->size, next->size);
        CHECK(pthread_setspecific(next->key, next) == 0);
    } else {
        free(value->block);
    }
    free(value);
}

/* Before every constructor: most likely before the allocator has made its own key. */
static void make_the_early_key(void) { CHECK(pthread_key_create(&early_key, destroy) == 0); }
CHECK_RUN_FIRST(make_the_early_key);

static void set_value(pthread_key_t key, int rounds, size_t size) {
    struct value *value = (struct value *)malloc(sizeof *value);
    CHECK(value != NULL);
    *value = (struct value){key, rounds, malloc(size), size};
    CHECK(value->block != NULL);
    check_fill(value->block, size, size);
    CHECK(pthread_setspecific(key, value) == 0);
}

static void *set_every_key(void *rounds) {
    set_value(early_key, (int)(intptr_t)rounds, 100);
    for (int i = 0; i < LATE_KEYS; i++)
        set_value(late_keys[i], (int)(intptr_t)rounds, 30 + (size_t)i * 100);
    return NULL;
}

static void run_destructors(int rounds) {
    destructions = 0;
    for (int i = 0; i < LATE_KEYS; i++) CHECK(pthread_key_create(&late_keys[i], destroy) == 0);
    for (int i = 0; i < THREADS; i++)
        check_join(check_thread(set_every_key, (void *)(intptr_t)(rounds - 1)));
    CHECK_THAT(destructions == (unsigned long)THREADS * (LATE_KEYS + 1) * (unsigned)rounds,
               "%lu destructors ran", destructions);
    for (int i = 0; i < LATE_KEYS; i++) CHECK(pthread_key_delete(late_keys[i]) == 0);
    churn_empty_the_slots();
}

static void destructors_allocate_and_free(void) { run_destructors(1); }

static void destructors_allocate_and_free_in_every_round(void) {
    run_destructors(PTHREAD_DESTRUCTOR_ITERATIONS);
}

static void *only_the_destructor_allocates(void *value) {
    CHECK(pthread_setspecific(early_key, value) == 0);
    return NULL;
}

/* The thread's first allocation of all is made by a destructor. */
static void a_thread_first_allocates_in_a_destructor(void) {
    for (int i = 0; i < 500; i++) {
        struct value *value = (struct value *)malloc(sizeof *value);
        CHECK(value != NULL);
        *value = (struct value){early_key, i % PTHREAD_DESTRUCTOR_ITERATIONS, malloc(64), 64};
        check_fill(value->block, 64, 64);
        check_join(check_thread(only_the_destructor_allocates, value));
    }
    churn_empty_the_slots();
}

/* Round after round without end: the C library stops coming, and what was set last is lost. */
static void a_destructor_that_never_stops_does_no_harm(void) {
    for (int i = 0; i < 200; i++) {
        struct value *value = (struct value *)malloc(sizeof *value);
        CHECK(value != NULL);
        *value = (struct value){early_key, 10 * PTHREAD_DESTRUCTOR_ITERATIONS, malloc(8), 8};
        check_fill(value->block, 8, 8);
        check_join(check_thread(only_the_destructor_allocates, value));
    }
    churn_empty_the_slots();
}

CHECK_MAIN(CASE(destructors_allocate_and_free),
           CASE(destructors_allocate_and_free_in_every_round),
           CASE(a_thread_first_allocates_in_a_destructor),
           CASE(a_destructor_that_never_stops_does_no_harm))
