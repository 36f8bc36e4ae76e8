/*
 * faults.c: a system that refuses the allocator's calls for memory, every n-th of them or all from one on, of one
 * kind or of all. Null and ENOMEM, blocks keep their contents, nothing hangs, and once the faults are over every
 * size is served, nothing counts as live any more, and the memory goes back.
 */
#include "faults.h"

#include "../../include/hz3.h"

#include <malloc.h>

enum { LIVE = 200, STEPS = 2500, THREADS = 4, SECONDS = 60 };

struct slot {
    unsigned char *block;
    size_t size;
    uint64_t seed;
};

/* Of a large block, the first page and the last bytes are written and looked at. */
static void mark(struct slot *slot) {
    size_t head = slot->size < 4096 ? slot->size : 4096;
    check_fill(slot->block, head, slot->seed);
    if (slot->size >= 8192) check_fill(slot->block + slot->size - 64, 64, slot->seed + 1);
}

static void check_mark(const struct slot *slot) {
    if (slot->block == NULL) return;
    check_filled(slot->block, slot->size < 4096 ? slot->size : 4096, slot->seed);
    if (slot->size >= 8192) check_filled(slot->block + slot->size - 64, 64, slot->seed + 1);
}

static void release(struct slot *slot) {
    check_mark(slot);
    errno = 4711;
    free(slot->block);
    CHECK_THAT(errno == 4711, "free changed errno to %d", errno);
    slot->block = NULL;
}

static size_t some_size(uint64_t *random) {
    uint64_t dice = check_random(random) % 1000;
    size_t limit = dice < 600 ? KIB : dice < 850 ? 32 * KIB : dice < 950 ? MIB : dice < 990 ? 16 * MIB : 80 * MIB;
    return 1 + check_random(random) % limit;
}

static unsigned long failures;

static void expect_enomem(int error, const char *function, size_t size) {
    CHECK_THAT(error == ENOMEM, "%s of %zu bytes failed with errno %d", function, size, error);
    __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
}

static void take(struct slot *slot, size_t size, uint64_t *random) {
    void *block = NULL;
    const char *function = "malloc";
    size_t alignment = (size_t)16 << check_random(random) % 10;
    errno = 0;
    switch (check_random(random) % 8) {
    case 0:
        function = "calloc";
        block = calloc(1, size);
        if (block != NULL && size < MIB) check_zeroed(block, size);
        break;
    case 1:
        function = "posix_memalign";
        errno = posix_memalign(&block, alignment, size);
        CHECK(block == NULL || check_aligned(block, alignment));
        break;
    default: block = malloc(size); break;
    }
    if (block == NULL) {
        expect_enomem(errno, function, size);
        return;
    }
    *slot = (struct slot){(unsigned char *)block, size, check_random(random)};
    mark(slot);
}

static void resize(struct slot *slot, size_t size, uint64_t *random) {
    check_mark(slot);
    errno = 0;
    void *moved = realloc(slot->block, size);
    if (moved == NULL) {
        expect_enomem(errno, "realloc", size);
        check_mark(slot);
        return;
    }
    slot->block = (unsigned char *)moved;
    size_t kept = size < slot->size ? size : slot->size;
    check_filled(slot->block, kept < 4096 ? kept : 4096, slot->seed);
    *slot = (struct slot){slot->block, size, check_random(random)};
    mark(slot);
}

static void storm(struct slot *slots, size_t steps, uint64_t *random) {
    for (size_t i = 0; i < steps; i++) {
        struct slot *slot = &slots[check_random(random) % LIVE];
        size_t size = some_size(random);
        if (slot->block == NULL)
            take(slot, size, random);
        else if (check_random(random) % 4 == 0)
            resize(slot, size, random);
        else
            release(slot);
        if (i % 512 == 511) malloc_trim(0);
    }
}

static void release_all(struct slot *slots) {
    for (size_t i = 0; i < LIVE; i++)
        if (slots[i].block != NULL) release(&slots[i]);
}

/* ---- after the faults -------------------------------------------------------------------- */

static size_t live_before, resident_before, metadata_before, most_unreturned;

static void every_size_is_served(void) {
    static const size_t sizes[] = {1, 16, 24, 100, 500, 1000, 5000, 20000, 32768, 50000, 300000, 3 * MIB, 40 * MIB};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    struct slot slots[SIZES][8];
    for (int s = 0; s < SIZES; s++)
        for (int i = 0; i < 8; i++) {
            slots[s][i] = (struct slot){(unsigned char *)malloc(sizes[s]), sizes[s], (uint64_t)(s * 8 + i)};
            CHECK_THAT(slots[s][i].block != NULL, "no block of %zu bytes after the faults", sizes[s]);
            mark(&slots[s][i]);
        }
    for (int s = 0; s < SIZES; s++)
        for (int i = 0; i < 8; i++) release(&slots[s][i]);
}

static void *meet(void *barrier) {
    pthread_barrier_wait((pthread_barrier_t *)barrier);
    return NULL;
}

/* The C library keeps the stacks of threads that have ended, and with each a block of its own: as many as there
 * will be at a time count before. */
static void keep_stacks(void) {
    pthread_t started[THREADS];
    pthread_barrier_t barrier;
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (int i = 0; i < THREADS; i++) started[i] = check_thread(meet, &barrier);
    for (int i = 0; i < THREADS; i++) check_join(started[i]);
    CHECK(pthread_barrier_destroy(&barrier) == 0);
}

/* hz3's own; zeros for others. */
static struct hz3_stats own_counts(void) {
    struct hz3_stats stats = {0};
    if (check_any_malloc()) return stats;
    size_t (*get)(struct hz3_stats *, size_t) = (size_t (*)(struct hz3_stats *, size_t))check_symbol("hz3_stats");
    CHECK(get(&stats, sizeof stats) == sizeof stats);
    return stats;
}

static void begin(void) {
    alarm(SECONDS);
    failures = 0;
    keep_stacks();
    every_size_is_served();
    malloc_trim(0);
    faults_only_for_the_allocator();
    live_before = mallinfo2().uordblks;
    resident_before = check_status("VmRSS:");
    metadata_before = own_counts().metadata_bytes;
}

/* Mappings that the system did not take back. */
static size_t unreturned(void) { return own_counts().unreturned_bytes; }

static void end(void) {
    faults_stop();
    every_size_is_served();
    malloc_trim(0);
    if (!check_any_malloc()) {
        size_t live = mallinfo2().uordblks;
        CHECK_THAT(live == live_before, "%zu bytes live before the faults, %zu after", live_before, live);
    }
    size_t resident = check_status("VmRSS:");
    CHECK_THAT(unreturned() == 0, "%zu bytes were not asked for again", unreturned());
    /* What a thread beside the scenario needs grows with its time; the tables of that much address space stay. */
    size_t tables = own_counts().metadata_bytes - metadata_before;
    CHECK_THAT(resident <= resident_before + tables + 4 * MIB, "%zu KiB resident before the faults, %zu after",
               resident_before / KIB, resident / KIB);
}

/* ---- which calls are refused ------------------------------------------------------------- */

typedef void scenario(uint64_t seed);

/* Runs the scenario in a child of its own under each choice of calls. */
static void under_every_fault(scenario *run) {
    static const int kinds[] = {FAULT_ALL,    FAULT_MMAP,     FAULT_MUNMAP,
                                FAULT_MREMAP, FAULT_MPROTECT, FAULT_MADVISE};
    static const unsigned long every[] = {1, 2, 3, 4, 5, 7, 11, 16, 29, 64, 150};
    static const unsigned long last[] = {1, 2, 3, 5, 9, 20, 50, 100};
    enum { EVERY = sizeof every / sizeof every[0], LAST = sizeof last / sizeof last[0] };
    uint64_t seed = check_seed();
    unsigned long *total = (unsigned long *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(total != MAP_FAILED);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (int i = 0; i < EVERY + LAST; i++) {
            /* One kind alone: every third choice, so that all meet within the time. */
            if (k > 0 && (i + k) % 3 != 0) continue;
            unsigned long n = i < EVERY ? every[i] : 0, from = i < EVERY ? 0 : last[i - EVERY];
            pid_t child = fork();
            if (child == 0) {
                begin();
                faults_begin_with(kinds[k], n, from);
                run(seed + (uint64_t)i);
                most_unreturned = unreturned();
                end();
                total[0] += faults.refused;
                total[1] += failures;
                total[2] += most_unreturned > 0;
                _exit(0);
            }
            int status = 0;
            CHECK(child > 0 && waitpid(child, &status, 0) == child);
            CHECK_THAT(status == 0, "kinds %#x, every %lu, from %lu: status %#x", (unsigned)kinds[k], n, from, status);
        }
    printf("%lu calls refused, %lu allocations failed, mappings not taken back under %lu choices\n", total[0], total[1],
           total[2]);
    if (check_any_malloc() && total[0] == 0) check_skip("this allocator's system calls don't come by");
    CHECK(total[0] > 100);
}

/* A background thread is live memory too, and may start under any fault. */
static void without_a_background_thread(const char *name) {
    if (getenv("HZ3_BACKGROUND_THREAD") == NULL) {
        CHECK(setenv("HZ3_BACKGROUND_THREAD", "0", 1) == 0);
        execl("/proc/self/exe", "faults", name, (char *)NULL);
        _exit(99);
    }
}

/* ---- scenarios --------------------------------------------------------------------------- */

static void one_thread(uint64_t seed) {
    static struct slot slots[LIVE];
    storm(slots, STEPS, &seed);
    release_all(slots);
}

static void one_thread_works(void) { under_every_fault(one_thread); }

/* Blocks change hands through these: most are freed by another thread. */
static struct slot *shared[64];

static void exchange(struct slot *own, uint64_t *random) {
    struct slot *other = __atomic_exchange_n(&shared[check_random(random) % 64], own, __ATOMIC_ACQ_REL);
    if (other == NULL) return;
    release(other);
    free(other);
}

static void *exchanging(void *pointer) {
    uint64_t random = (uint64_t)(uintptr_t)pointer;
    struct slot slots[LIVE] = {{NULL, 0, 0}};
    for (int round = 0; round < 10; round++) {
        storm(slots, 60, &random);
        for (int i = 0; i < 40; i++) {
            struct slot *own = (struct slot *)malloc(sizeof *own);
            if (own == NULL) continue;
            own->block = NULL;
            take(own, 1 + check_random(&random) % 3000, &random);
            if (own->block == NULL)
                free(own);
            else
                exchange(own, &random);
        }
    }
    release_all(slots);
    return NULL;
}

static void threads(uint64_t seed) {
    for (int round = 0; round < 2; round++) {
        pthread_t started[THREADS];
        int count = 0;
        for (int i = 0; i < THREADS; i++) {
            void *argument = (void *)(uintptr_t)(seed + (uint64_t)(100 * round + i));
            int error = pthread_create(&started[count], NULL, exchanging, argument);
            CHECK_THAT(error == 0 || error == EAGAIN || error == ENOMEM, "pthread_create: %d", error);
            if (error == 0) count++;
        }
        for (int i = 0; i < count; i++) check_join(started[i]);
    }
    for (int i = 0; i < 64; i++) {
        if (shared[i] == NULL) continue;
        release(shared[i]);
        free(shared[i]);
        shared[i] = NULL;
    }
}

static void threads_come_and_go(void) {
    without_a_background_thread(__func__);
    under_every_fault(threads);
}

static void *beside(void *stop) {
    static struct slot slots[LIVE];
    uint64_t random = 7;
    while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) storm(slots, 50, &random);
    release_all(slots);
    return NULL;
}

static void forks(uint64_t seed) {
    static struct slot slots[LIVE];
    int stop = 0;
    pthread_t thread;
    int error = pthread_create(&thread, NULL, beside, &stop);
    for (int i = 0; i < 4; i++) {
        storm(slots, 200, &seed);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(SECONDS);
            storm(slots, 200, &seed);
            release_all(slots);
            faults_stop();
            every_size_is_served();
            _exit(0);
        }
        storm(slots, 50, &seed);
        check_child_passed(child);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    if (error == 0) check_join(thread);
    release_all(slots);
}

static void a_process_forks(void) {
    without_a_background_thread(__func__);
    under_every_fault(forks);
}

static void growth(uint64_t seed) {
    for (int round = 0; round < 4; round++) {
        struct slot slot = {NULL, 0, 0};
        take(&slot, 100, &seed);
        if (slot.block == NULL) continue;
        for (size_t size = 200; size < 100 * MIB; size = size * 5 / 2) resize(&slot, size, &seed);
        for (size_t size = 90 * MIB; size > 50; size /= 3) resize(&slot, size, &seed);
        release(&slot);
    }
}

static void blocks_grow_and_shrink(void) { under_every_fault(growth); }

/* With FAULTS_FROM_START the first call that the allocator ever makes may be refused; else that after main. */
static void the_process_starts_under_faults(void) {
    static struct slot slots[LIVE];
    if (FAULTS_FROM_START == 0) faults_begin_with(FAULT_ALL, 2, 0);
    alarm(SECONDS);
    uint64_t random = 3;
    storm(slots, STEPS, &random);
    release_all(slots);
    unsigned long refused = faults.refused;
    faults_stop();
    every_size_is_served();
    storm(slots, STEPS, &random);
    release_all(slots);
    if (check_any_malloc() && refused == 0) check_skip("this allocator's system calls don't come by");
    CHECK(refused > 0 && (FAULTS_FROM_START != 1 || failures > 0));
}

CHECK_MAIN(CASE(one_thread_works),
           CASE(threads_come_and_go),
           CASE(a_process_forks),
           CASE(blocks_grow_and_shrink),
           CASE(the_process_starts_under_faults))
