/*
 * constructors.c: allocation before main, from the first moment at which a program's own code can
 * run, and after it, in the last destructor.
 */
#include "check.h"

#include "churn.h"

enum { BEFORE_CONSTRUCTORS, FIRST_CONSTRUCTOR, LAST_CONSTRUCTOR, STAGES };

static void *blocks[STAGES];
static int stages_done;

static void *do_nothing(void *unused) { return free(malloc(100)), unused; }

static void run_stage(int stage) {
    CHECK(stages_done == stage);
    uint64_t random = (uint64_t)stage;
    for (int i = 0; i < 300; i++) churn_step(&random);
    blocks[stage] = malloc(5000);
    CHECK(blocks[stage] != NULL);
    check_fill(blocks[stage], 5000, (uint64_t)stage);
    check_join(check_thread(do_nothing, NULL));
    stages_done++;
}

static void before_constructors(void) { run_stage(BEFORE_CONSTRUCTORS); }
CHECK_RUN_FIRST(before_constructors);

__attribute__((constructor(102))) static void first_constructor(void) {
    run_stage(FIRST_CONSTRUCTOR);
}

__attribute__((constructor)) static void last_constructor(void) { run_stage(LAST_CONSTRUCTOR); }

/* Runs after every other destructor of the program; its status counts if it fails. */
__attribute__((destructor(101))) static void last_destructor(void) {
    for (int stage = 0; stage < STAGES; stage++) {
        check_filled(blocks[stage], 5000, (uint64_t)stage);
        free(blocks[stage]);
    }
    uint64_t random = 99;
    for (int i = 0; i < 300; i++) churn_step(&random);
    check_join(check_thread(do_nothing, NULL));
    churn_empty_the_slots();
}

static void constructors_and_destructors_allocate(void) { CHECK(stages_done == STAGES); }

CHECK_MAIN(CASE(constructors_and_destructors_allocate))
