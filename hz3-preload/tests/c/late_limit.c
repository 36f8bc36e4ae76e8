/*
 * late_limit.c: limits that a program sets while it runs, when the allocator has already mapped what
 * it likes: RLIMIT_AS at several values above and below the present size, RLIMIT_DATA, and mlockall.
 * Blocks are mostly not written here. What is mapped is little more than what is used.
 */
#include "check.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* More address space than any allocator reserves ahead, in blocks of BLOCK bytes. */
#define BLOCK (4 * MIB)
#define BLOCKS (256 * GIB / BLOCK)
#define THREADS 4

static void *blocks[THREADS][BLOCKS];

/* Other threads run out, too: what one could not use after all, another gets. */
static int is_one_of_many;

static size_t take_until_null(void **taken) {
    size_t count = 0;
    for (;; count++) {
        CHECK_THAT(count < BLOCKS, "malloc goes on for ever under a limit");
        errno = 0;
        taken[count] = malloc(BLOCK);
        if (taken[count] == NULL) break;
    }
    CHECK_THAT(errno == ENOMEM, "errno is %d", errno);
    void *more = malloc(BLOCK);
    CHECK(more == NULL ? errno == ENOMEM : is_one_of_many);
    free(more);
    return count;
}

static void give_back(void **taken, size_t count) {
    while (count > 0) free(taken[--count]);
}

static void run_out_and_recover(void **taken) {
    size_t first = take_until_null(taken);
    give_back(taken, first);
    size_t second = take_until_null(taken);
    CHECK_THAT(second >= first / 2, "first %zu blocks, after free only %zu", first, second);
    give_back(taken, second);
    void *block = malloc(1000);
    CHECK(block != NULL);
    memset(block, 1, 1000);
    free(block);
}

static void set_limit(int resource, size_t bytes) {
    const struct rlimit limit = {bytes, bytes};
    CHECK_THAT(setrlimit(resource, &limit) == 0, "setrlimit: %s", strerror(errno));
}

/* Runs out in a child whose limit lies `room` bytes above its present size. */
static void run_out_in_a_child(int resource, const char *size_field, size_t room) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        set_limit(resource, check_status(size_field) + room);
        run_out_and_recover(blocks[0]);
        _exit(0);
    }
    check_child_passed(child);
}

static void malloc_fails_and_recovers_under_a_late_address_space_limit(void) {
    const size_t rooms[] = {0, 100 * KIB, MIB, 16 * MIB, 100 * MIB, GIB, 5 * GIB};
    free(malloc(100));
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++)
        run_out_in_a_child(RLIMIT_AS, "VmSize:", rooms[i]);
}

static void malloc_fails_and_recovers_under_a_limit_below_the_present_size(void) {
    free(malloc(100));
    const size_t limits[] = {0, MIB, 2 * MIB};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            void *block = malloc(3000);
            CHECK(block != NULL);
            check_fill(block, 3000, 1);
            set_limit(RLIMIT_AS, limits[i]);
            give_back(blocks[0], take_until_null(blocks[0]));
            check_filled(block, 3000, 1);
            free(block);
            _exit(0);
        }
        check_child_passed(child);
    }
}

static void malloc_fails_and_recovers_under_a_late_data_limit(void) {
    const size_t rooms[] = {MIB, 64 * MIB, GIB};
    free(malloc(100));
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++)
        run_out_in_a_child(RLIMIT_DATA, "VmData:", rooms[i]);
}

struct link {
    struct link *next;
};

/* Blocks of all kinds, freed in the reverse order of their addresses: the last ones reach caches first. */
static void others_can_map_what_was_freed(int resource, const char *size_field) {
    static const size_t sizes[] = {64, 200, 1000, 4000, 20000, 100 * KIB, MIB, 10 * MIB};
    free(malloc(100));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            set_limit(resource, check_status(size_field) + 512 * MIB);
            for (int round = 0; round < 2; round++) {
                struct link *first = NULL, *block;
                for (; (block = (struct link *)malloc(sizes[i])) != NULL; first = block) block->next = first;
                for (; first != NULL; first = block) {
                    block = first->next;
                    free(first);
                }
                void *mapping =
                    mmap(NULL, 200 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                CHECK_THAT(mapping != MAP_FAILED, "after blocks of %zu bytes: %s", sizes[i], strerror(errno));
                CHECK(munmap(mapping, 200 * MIB) == 0);
            }
            _exit(0);
        }
        check_child_passed(child);
    }
}

static void what_is_freed_below_an_address_space_limit_is_there_for_others(void) {
    others_can_map_what_was_freed(RLIMIT_AS, "VmSize:");
}

static void what_is_freed_below_a_data_limit_is_there_for_others(void) {
    others_can_map_what_was_freed(RLIMIT_DATA, "VmData:");
}

/* What can't be had costs neither address space nor a share of the limit, however often it is asked for. */
static void requests_beyond_a_data_limit_leave_nothing_behind(void) {
    free(malloc(100));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        free(malloc(BLOCK));
        set_limit(RLIMIT_DATA, check_status("VmData:") + GIB);
        const size_t size = check_status("VmSize:"), data = check_status("VmData:");
        for (size_t i = 0; i < 40; i++) {
            errno = 0;
            CHECK(malloc(check_size(i % 8 * 16 * GIB + 2 * GIB + i * MIB)) == NULL && errno == ENOMEM);
        }
        CHECK_THAT(check_status("VmSize:") < size + 64 * MIB, "%zu MiB more address space",
                   (check_status("VmSize:") - size) / MIB);
        CHECK_THAT(check_status("VmData:") < data + 64 * MIB, "%zu MiB more data",
                   (check_status("VmData:") - data) / MIB);
        run_out_and_recover(blocks[0]);
        _exit(0);
    }
    check_child_passed(child);
}

static pthread_barrier_t barrier;
static size_t counts[THREADS];

static void *run_out_together(void *index) {
    size_t self = (size_t)(uintptr_t)index;
    for (int round = 0; round < 5; round++) {
        pthread_barrier_wait(&barrier);
        counts[self] = take_until_null(blocks[self]);
        pthread_barrier_wait(&barrier);
        size_t total = 0;
        for (int i = 0; i < THREADS; i++) total += counts[i];
        CHECK_THAT(total > 0, "no memory at all");
        give_back(blocks[self], counts[self]);
        pthread_barrier_wait(&barrier);
        for (size_t i = 0; i < total / THREADS / 2; i++) {
            blocks[self][i] = malloc(BLOCK);
            CHECK_THAT(blocks[self][i] != NULL, "round %d: %zu blocks of %zu after all were freed",
                       round, i, total / THREADS / 2);
        }
        give_back(blocks[self], total / THREADS / 2);
    }
    return NULL;
}

static void threads_run_out_together_under_a_late_limit(void) {
    is_one_of_many = 1;
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = check_thread(run_out_together, (void *)i);
    set_limit(RLIMIT_AS, check_status("VmSize:") + GIB);
    for (int i = 0; i < 5 * 3; i++) pthread_barrier_wait(&barrier);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
}

/* ---- what the rest of the process gets --------------------------------------------------- */

static void *pass(void *it) { return it; }

static void use_everything_else(void) {
    set_limit(RLIMIT_AS, GIB);
    check_join(check_thread(pass, NULL));
    void *mapped = mmap(NULL, 40 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_THAT(mapped != MAP_FAILED, "mmap: %s", strerror(errno));
    CHECK_THAT(dlopen("libm.so.6", RTLD_NOW) != NULL, "%s", dlerror());
    void *block = malloc(40 * MIB);
    CHECK(block != NULL);
    free(block);
}

/* In a child: runs `body` after the allocator's first calls. */
static void in_a_child(void (*body)(void)) {
    free(malloc(100));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    check_child_passed(child);
}

static void the_program_s_own_calls_work_under_a_late_limit(void) { in_a_child(use_everything_else); }

static size_t small_blocks_until_null(void) {
    size_t count = 0;
    while (malloc(10000) != NULL) count++;
    CHECK(errno == ENOMEM);
    return count * 10000;
}

static void fill_a_limit(void) {
    const size_t room = 600 * MIB;
    set_limit(RLIMIT_AS, check_status("VmSize:") + room);
    size_t taken = small_blocks_until_null();
    CHECK_THAT(taken >= room / 10 * 9, "%zu of %zu MiB", taken / MIB, room / MIB);
}

static void nearly_all_that_a_late_limit_leaves_is_to_be_had(void) { in_a_child(fill_a_limit); }

static void raise_a_limit_bit_by_bit(void) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    for (int round = 0; round < 80; round++) {
        limit.rlim_cur = check_status("VmSize:") + 10 * MIB;
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        size_t taken = small_blocks_until_null();
        CHECK_THAT(taken >= 6 * MIB, "round %d: %zu KiB of 10 MiB", round, taken / KIB);
    }
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    for (int i = 0; i < 30000; i++) CHECK_THAT(malloc(10000) != NULL, "null after %d blocks without a limit", i);
}

static void a_limit_that_is_raised_bit_by_bit_wears_nothing_out(void) { in_a_child(raise_a_limit_bit_by_bit); }

static void compare_sizes(void) {
    size_t used = 0, before = check_status("VmSize:");
    CHECK_THAT(before < 64 * MIB, "%zu MiB are mapped after the first block", before / MIB);
    for (size_t i = 0; used < GIB; i++) {
        size_t size = i % 50 == 0 ? 3 * MIB : 100 + i % 900 * 30;
        CHECK(malloc(size) != NULL);
        used += size;
        if (i % 100 != 0) continue;
        size_t mapped = check_status("VmSize:");
        CHECK_THAT(mapped < used + used / 4 + 64 * MIB, "%zu MiB are mapped for %zu", mapped / MIB, used / MIB);
    }
}

static void free_again(void) {
    static char *blocks[20000];
    const size_t count = sizeof blocks / sizeof blocks[0];
    free(check_opaque(malloc(100)));
    size_t before = check_status("VmSize:");
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < count; i++) {
            blocks[i] = (char *)malloc(20000);
            CHECK(blocks[i] != NULL);
            blocks[i][0] = 1;
        }
        CHECK(check_status("VmSize:") > before + 300 * MIB);
        for (size_t i = 0; i < count; i++) free(blocks[i]);
        /* The trim first, then by time: the background thread may hold some of it. */
        malloc_trim(0);
        size_t after = 0;
        for (int naps = 0; naps < 600 && (after = check_status("VmSize:")) > before + 64 * MIB; naps++) {
            usleep(100000);
            free(check_opaque(malloc(50000)));
        }
        CHECK_THAT(after <= before + 64 * MIB, "%zu MiB more are mapped", (after - before) / MIB);
    }
}

static void what_is_mapped_shrinks_with_what_is_used(void) { in_a_child(free_again); }

static void what_is_mapped_is_little_more_than_what_is_used(void) { in_a_child(compare_sizes); }

/* ---- locked memory ----------------------------------------------------------------------- */

#define RESIDENT_LIMIT (512 * MIB)

/*
 * Runs `locking` in a child and kills the child when it has much more memory resident than it
 * uses, long before the machine suffers.
 */
static void run_watched(void (*locking)(void)) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        locking();
        _exit(0);
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/statm", (int)child);
    for (;;) {
        int status;
        pid_t ended = waitpid(child, &status, WNOHANG);
        CHECK(ended >= 0);
        if (ended == child) {
            if (WIFEXITED(status) && WEXITSTATUS(status) == CHECK_SKIPPED) _exit(CHECK_SKIPPED);
            CHECK_THAT(status == 0, "the child ended with wait status %#x", (unsigned)status);
            return;
        }
        char text[128] = "";
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0 && read(file, text, sizeof text - 1) > 0) {
            unsigned long total, resident;
            if (sscanf(text, "%lu %lu", &total, &resident) == 2 &&
                resident * 4 * KIB > RESIDENT_LIMIT) {
                kill(child, SIGKILL);
                waitpid(child, &status, 0);
                check_fail(__FILE__, __LINE__, "%lu MiB were locked for 64 MiB in use",
                           resident * 4 / 1024);
            }
        }
        if (file >= 0) close(file);
        usleep(1000);
    }
}

static void lock_everything(void) {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) return;
    CHECK_THAT(errno == ENOMEM || errno == EPERM, "mlockall: %s", strerror(errno));
    check_skip("RLIMIT_MEMLOCK forbids mlockall here: run it with `ulimit -l unlimited`");
}

static void use_64_mib(void) {
    static void *live[70000];
    size_t count = 0;
    for (size_t bytes = 0; bytes < 64 * MIB; count++) {
        size_t size = count % 500 == 0 ? 2 * MIB : 100 + count % 2000;
        live[count] = malloc(size);
        CHECK_THAT(live[count] != NULL, "malloc(%zu) after %zu bytes", size, bytes);
        check_fill(live[count], size, count);
        bytes += size;
    }
    while (count-- > 0) {
        size_t size = count % 500 == 0 ? 2 * MIB : 100 + count % 2000;
        check_filled(live[count], size, count);
        free(live[count]);
    }
}

static void lock_then_allocate(void) {
    free(malloc(100));
    lock_everything();
    use_64_mib();
    use_64_mib();
}

static void allocate_then_lock(void) {
    use_64_mib();
    lock_everything();
    use_64_mib();
}

static void lock_and_hold(void) {
    const size_t piece = 60 * KIB, use = 60 * MIB;
    free(malloc(100));
    size_t before = check_status("VmRSS:");
    lock_everything();
    for (size_t used = 0; used < use; used += piece) {
        void *block = malloc(piece);
        CHECK(block != NULL);
        check_fill(block, piece, used);
    }
    size_t resident = check_status("VmRSS:");
    CHECK_THAT(resident < before + use + use / 8 + 10 * MIB, "%zu MiB are resident for %zu, %zu before",
               resident / MIB, use / MIB, before / MIB);
}

static void locked_memory_is_little_more_than_what_is_used(void) { run_watched(lock_and_hold); }

static void mlockall_before_allocation_locks_what_is_used(void) { run_watched(lock_then_allocate); }

static void mlockall_after_allocation_locks_what_is_used(void) { run_watched(allocate_then_lock); }

/* What stays mapped at the end of the heap is part of a long block, not beside it. */
static void a_long_block_finds_room_after_a_trim(void) {
    const size_t rooms[] = {64 * MIB, 128 * MIB, 500 * MIB};
    free(malloc(100));
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            set_limit(RLIMIT_AS, check_status("VmSize:") + rooms[i]);
            size_t count = 0;
            while ((blocks[0][count] = malloc(100000)) != NULL) memset(blocks[0][count++], 1, 100000);
            give_back(blocks[0], count);
            malloc_trim(0);
            void *block = check_opaque(malloc(rooms[i] * 4 / 5));
            CHECK_THAT(block != NULL, "%zu MiB of %zu are not to be had", rooms[i] * 4 / 5 / MIB, rooms[i] / MIB);
            free(block);
            _exit(0);
        }
        check_child_passed(child);
    }
}

CHECK_MAIN(CASE(a_long_block_finds_room_after_a_trim),
           CASE(malloc_fails_and_recovers_under_a_late_address_space_limit),
           CASE(malloc_fails_and_recovers_under_a_limit_below_the_present_size),
           CASE(malloc_fails_and_recovers_under_a_late_data_limit),
           CASE(what_is_freed_below_an_address_space_limit_is_there_for_others),
           CASE(what_is_freed_below_a_data_limit_is_there_for_others),
           CASE(requests_beyond_a_data_limit_leave_nothing_behind),
           CASE(threads_run_out_together_under_a_late_limit),
           CASE(the_program_s_own_calls_work_under_a_late_limit),
           CASE(nearly_all_that_a_late_limit_leaves_is_to_be_had),
           CASE(a_limit_that_is_raised_bit_by_bit_wears_nothing_out),
           CASE(what_is_mapped_is_little_more_than_what_is_used),
           CASE(what_is_mapped_shrinks_with_what_is_used),
           CASE(locked_memory_is_little_more_than_what_is_used),
           CASE(mlockall_before_allocation_locks_what_is_used),
           CASE(mlockall_after_allocation_locks_what_is_used))
