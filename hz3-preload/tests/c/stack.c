/*
 * Stack: how much of the caller's stack the library takes on its deepest paths. Each case paints a stack, calls functions
 * of the library there while other threads allocate and upkeep is due, and looks how far down the paint is gone. The
 * library's part begins at the stack pointer of the function that calls it. Build it with -z now: a lazily bound call
 * takes 3 KiB for the loader, once.
 *
 * Arguments behind the case: the budget in bytes.
 */
#include "check.h"

#include <sys/mman.h>
#include <time.h>
#ifdef __GLIBC__
#include <ucontext.h>
#endif

#define PAINT 0xa5
#define PLACES 2048
/* glibc takes no less than 128 KiB on AArch64. */
#ifdef __aarch64__
#define THREAD_STACK (128 * KIB)
#else
#define THREAD_STACK (64 * KIB)
#endif

static size_t budget(void) { return check_arguments[0] != NULL ? strtoul(check_arguments[0], NULL, 10) : 2 * KIB; }

static inline uintptr_t stack_pointer(void) {
    uintptr_t pointer;
#if defined(__x86_64__)
    __asm__ volatile("mov %%rsp, %0" : "=r"(pointer));
#elif defined(__riscv)
    __asm__ volatile("mv %0, sp" : "=r"(pointer));
#else
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
#endif
    return pointer;
}

/* A painted stack above an inaccessible page, one of the system's. */
struct stack {
    unsigned char *low;
    size_t size;
    /* The stack pointer of the caller of the library. */
    volatile uintptr_t caller;
};

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static struct stack new_stack(size_t size, int sharing) {
    size_t guard = page_size();
    unsigned char *start = mmap(NULL, size + guard, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    CHECK(start != MAP_FAILED);
    CHECK(mprotect(start, guard, PROT_NONE) == 0);
    memset(start + guard, PAINT, size);
    return (struct stack){start + guard, size, 0};
}

static void delete_stack(const struct stack *stack) {
    CHECK(munmap(stack->low - page_size(), stack->size + page_size()) == 0);
}

static void within_budget(const char *what, const struct stack *stack, size_t bytes) {
    size_t unused = 0;
    while (unused < stack->size && stack->low[unused] == PAINT) unused++;
    CHECK(stack->caller != 0);
    uintptr_t deepest = (uintptr_t)stack->low + unused;
    size_t depth = deepest < stack->caller ? stack->caller - deepest : 0;
    printf("%s: %zu bytes of %zu\n", what, depth, bytes);
    fflush(stdout);
    CHECK_THAT(depth <= bytes, "%s takes %zu bytes of stack, more than %zu", what, depth, bytes);
}

/* ---- coroutines --------------------------------------------------------------------------- */

static __thread void (*body)(struct stack *);
static __thread struct stack *current;

static void enter(void) { body(current); }

#ifdef __GLIBC__
/* Not __thread: qemu 7.2 with pages of 64 KiB answers EFAULT where a system call is given the first thread's own variables. */
static ucontext_t outside, inside;

static void run_on(struct stack *stack, void (*work)(struct stack *)) {
    CHECK(getcontext(&inside) == 0);
    inside.uc_stack.ss_sp = stack->low;
    inside.uc_stack.ss_size = stack->size;
    inside.uc_link = &outside;
    makecontext(&inside, enter, 0);
    body = work;
    current = stack;
    CHECK(swapcontext(&outside, &inside) == 0);
}
#else
/* musl has no contexts. */
static void run_on(struct stack *stack, void (*work)(struct stack *)) {
    body = work;
    current = stack;
    __asm__ volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tcall *%1\n\tmov %%rbx, %%rsp"
                     :
                     : "r"(stack->low + stack->size), "r"(enter)
                     : "rbx", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc", "memory");
}
#endif

/* Measures each of `works` on a fresh stack. */
struct work {
    const char *name;
    void (*run)(struct stack *);
};

static void measure(const struct work *works, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct stack stack = new_stack(64 * KIB, MAP_PRIVATE);
        run_on(&stack, works[i].run);
        within_budget(works[i].name, &stack, budget());
        delete_stack(&stack);
    }
}

/* ---- the other threads -------------------------------------------------------------------- */

static void *shared[PLACES];
static volatile int stopped;

static void *trade(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed;
    while (!stopped) {
        void *block = malloc(16 + check_random(&state) % (16 * KIB));
        free(__atomic_exchange_n(&shared[check_random(&state) % PLACES], block, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

static pthread_t traders[3];

static void begin_trade(void) {
    for (size_t i = 0; i < 3; i++) traders[i] = check_thread(trade, (void *)(i + 1));
    usleep(20000);
}

static void end_trade(void) {
    stopped = 1;
    for (int i = 0; i < 3; i++) check_join(traders[i]);
}

/* ---- what is measured --------------------------------------------------------------------- */

static void *kept[64 * KIB];
static uint64_t random_state = 7;

static int is_over(const struct timespec *begin, long milliseconds) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (now.tv_sec - begin->tv_sec) * 1000 + (now.tv_nsec - begin->tv_nsec) / 1000000 >= milliseconds;
}

/* Foreign blocks, of every size, a thread's own and large ones among them. */
static void small_and_foreign(struct stack *stack) {
    struct timespec begin;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &begin);
    stack->caller = stack_pointer();
    do {
        for (int i = 0; i < 1000; i++) {
            void *block = malloc(1 + check_random(&random_state) % (33 * KIB));
            free(__atomic_exchange_n(&shared[check_random(&random_state) % PLACES], block, __ATOMIC_ACQ_REL));
        }
    } while (!is_over(&begin, 1200));
}

/* More than a depot takes, of each size: carves, spills, and depots sent home. */
static void every_bin(struct stack *stack) {
    stack->caller = stack_pointer();
    for (size_t size = 16; size <= 33 * KIB; size += size / 8 + 8) {
        size_t count = 12 * MIB / size;
        if (count > 64 * KIB) count = 64 * KIB;
        for (size_t i = 0; i < count; i++) kept[i] = malloc(size);
        for (size_t i = 0; i < count; i++) free(kept[i]);
    }
}

static void zeroed(struct stack *stack) {
    stack->caller = stack_pointer();
    for (size_t size = 1; size < 80 * MIB; size += size / 4 + 1) {
        for (size_t i = 0; i < 70; i++) kept[i] = size < MIB || i < 2 ? calloc(1, size) : NULL;
        for (size_t i = 0; i < 70; i++) free(kept[i]);
    }
}

static void resized(struct stack *stack) {
    stack->caller = stack_pointer();
    void *block = NULL;
    for (size_t size = 1; size < 80 * MIB; size += size / 4 + 1) block = realloc(block, size);
    for (size_t size = 80 * MIB; size > 0; size -= size / 4 + 1) block = realloc(block, size);
    free(block);
    for (int i = 0; i < 3000; i++) {
        block = malloc(1 + check_random(&random_state) % (100 * KIB));
        free(realloc(block, 1 + check_random(&random_state) % (100 * KIB)));
    }
}

static void aligned(struct stack *stack) {
    stack->caller = stack_pointer();
    for (size_t alignment = 8; alignment <= 4 * MIB; alignment *= 2)
        for (size_t size = 1; size < 4 * MIB; size += size / 2 + 1) {
            void *block = NULL;
            if (posix_memalign(&block, alignment, size) == 0) free(block);
            free(memalign(alignment, size));
        }
}

static void large(struct stack *stack) {
    memset(kept, 0, 256 * sizeof kept[0]);
    struct timespec begin;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &begin);
    stack->caller = stack_pointer();
    do {
        for (int i = 0; i < 64; i++) {
            size_t place = check_random(&random_state) % 256, size = 33 * KIB + check_random(&random_state) % MIB;
            free(kept[place]);
            kept[place] = malloc(i % 32 == 0 ? 40 * MIB : size);
        }
    } while (!is_over(&begin, 300));
    for (int i = 0; i < 256; i++) {
        free(kept[i]);
        kept[i] = NULL;
    }
}

static void trims(struct stack *stack) {
    stack->caller = stack_pointer();
    for (int turn = 0; turn < 3; turn++) {
        for (size_t i = 0; i < 20000; i++) kept[i] = malloc(16 + i % 3000);
        for (size_t i = 0; i < 20000; i++) free(kept[i]);
        malloc_trim(0);
    }
}

static void allocation_takes_little_stack(void) {
    static const struct work works[] = {
        {"small and foreign blocks", small_and_foreign}, {"every bin", every_bin}, {"calloc", zeroed},
        {"realloc", resized}, {"aligned blocks", aligned}, {"large blocks", large}, {"malloc_trim", trims},
        {"small and foreign blocks again", small_and_foreign},
    };
    begin_trade();
    measure(works, sizeof works / sizeof works[0]);
    end_trade();
}

/* ---- reports ------------------------------------------------------------------------------ */

static FILE *paper;
static size_t (*fill)(void *, size_t);
static int (*dump)(int), (*dump_profile)(const char *);

static void counted(struct stack *stack) {
    stack->caller = stack_pointer();
    (void)mallinfo2();
}

static void told(struct stack *stack) {
    stack->caller = stack_pointer();
    malloc_stats();
}

static void told_as_xml(struct stack *stack) {
    stack->caller = stack_pointer();
    malloc_info(0, paper);
}

static void filled(struct stack *stack) {
    size_t counts[64];
    stack->caller = stack_pointer();
    fill(counts, sizeof counts);
}

static void dumped(struct stack *stack) {
    stack->caller = stack_pointer();
    dump(fileno(paper));
}

/* Without a profile it fails at once. */
static void profile_dumped(struct stack *stack) {
    stack->caller = stack_pointer();
    dump_profile("/dev/null");
}

static void reports_take_little_stack(void) {
    static const struct work works[] = {
        {"mallinfo2", counted}, {"malloc_stats", told}, {"malloc_info", told_as_xml},
        {"hz3_stats", filled}, {"hz3_dump", dumped}, {"hz3_profile_dump", profile_dumped},
    };
    *(void **)&fill = check_symbol("hz3_stats");
    *(void **)&dump = check_symbol("hz3_dump");
    *(void **)&dump_profile = check_symbol("hz3_profile_dump");
    paper = fopen("/dev/null", "w");
    CHECK(paper != NULL);
    begin_trade();
    measure(works, sizeof works / sizeof works[0]);
    end_trade();
}

/* ---- threads: with glibc's frames at their end and in exit ---------------------------------- */

static void *use_some(void *argument) {
    struct stack *stack = argument;
    stack->caller = stack_pointer();
    for (int i = 0; i < 20000; i++) {
        void *block = malloc(1 + check_random(&random_state) % (33 * KIB));
        free(__atomic_exchange_n(&shared[check_random(&random_state) % PLACES], block, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

static void *leave(void *argument) {
    struct stack *stack = argument;
    stack->caller = stack_pointer();
    free(check_opaque(malloc(100)));
    exit(0);
}

static pthread_t thread_on(struct stack *stack, void *(*run)(void *)) {
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, stack->low, stack->size) == 0);
    return check_thread_at(__FILE__, __LINE__, &attributes, run, stack);
}

static void a_threads_start_and_end_take_little_stack(void) {
    begin_trade();
    for (int i = 0; i < 8; i++) {
        struct stack stack = new_stack(THREAD_STACK, MAP_PRIVATE);
        check_join(thread_on(&stack, use_some));
        within_budget("a thread", &stack, budget());
        delete_stack(&stack);
    }
    end_trade();
}

/* The child's stack is shared memory, so that the parent sees it when the child is gone. */
static void exit_takes_little_stack(void) {
    begin_trade();
    struct stack *stack = mmap(NULL, sizeof *stack, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    *stack = new_stack(THREAD_STACK, MAP_SHARED);
    pid_t child = fork();
    if (child == 0) {
        thread_on(stack, leave);
        for (;;) pause();
    }
    check_child_passed(child);
    within_budget("exit", stack, budget());
    end_trade();
}

static void a_thread_with_the_smallest_stack_calls_exit(void) {
    pid_t child = fork();
    if (child == 0) {
        pthread_attr_t attributes;
        CHECK(pthread_attr_init(&attributes) == 0);
        CHECK(pthread_attr_setstacksize(&attributes, (size_t)sysconf(_SC_THREAD_STACK_MIN)) == 0);
        struct stack stack;
        check_thread_at(__FILE__, __LINE__, &attributes, leave, &stack);
        for (;;) pause();
    }
    check_child_passed(child);
}

/* ---- coroutines of 4 KiB ------------------------------------------------------------------ */

/* A signal's frame, which a coroutine has to leave room for as well, is not counted. */
static void all_sizes(struct stack *stack) {
    stack->caller = stack_pointer();
    for (size_t i = 0; i < 300; i++) {
        size_t size = 1 + check_random(&random_state) % (i % 16 == 0 ? 200 * KIB : 33 * KIB);
        void *block = i % 3 == 0 ? calloc(1, size) : malloc(size);
        if (i % 2 == 0) block = realloc(block, size / 2 + 1 + check_random(&random_state) % size);
        free(__atomic_exchange_n(&shared[check_random(&random_state) % PLACES], block, __ATOMIC_ACQ_REL));
    }
}

static void coroutines_of_four_kibibytes_allocate(void) {
    begin_trade();
    struct stack stack = new_stack(4 * KIB, MAP_PRIVATE);
    for (int i = 0; i < 100; i++) run_on(&stack, all_sizes);
    end_trade();
}

CHECK_MAIN(CASE(allocation_takes_little_stack), CASE(reports_take_little_stack),
           CASE(a_threads_start_and_end_take_little_stack), CASE(exit_takes_little_stack),
           CASE(a_thread_with_the_smallest_stack_calls_exit), CASE(coroutines_of_four_kibibytes_allocate))
