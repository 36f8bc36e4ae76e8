/*
 * large_blocks.c: memory of large blocks that come and go serves again: no page is touched anew, and what stays idle
 * goes back. A page that gets memory is a minor fault.
 */
#include "check.h"

#include <sys/mman.h>
#include <sys/resource.h>

enum { PAGE = 4096 };

static long faults(void) {
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_minflt;
}

static char *taken(size_t size) {
    char *block = (char *)malloc(size);
    CHECK_THAT(block != NULL, "no %zu bytes", size);
    return (char *)check_opaque(block);
}

static char *touched(size_t size) {
    char *block = taken(size);
    for (size_t at = 0; at < size; at += PAGE) block[at] = 1;
    block[size - 1] = 1;
    return block;
}

static void a_mapping_that_comes_and_goes_is_touched_once(void) {
    const size_t sizes[] = {32 * MIB, 33000000, 33 * MIB, 100 * MIB, 200 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        free(touched(sizes[i]));
        /* A first mapping of its own is more than may stay: it goes back, and is missed. */
        if (sizes[i] >= 128 * MIB) free(touched(sizes[i]));
        long before = faults();
        for (int round = 0; round < 20; round++) free(touched(sizes[i]));
        long counted = faults() - before;
        CHECK_THAT(counted < (long)(sizes[i] / PAGE), "%zu bytes, 20 times: %ld faults", sizes[i], counted);
    }
}

static void sizes_near_each_other_share_a_mapping(void) {
    uint64_t random = 7;
    free(touched(60 * MIB));
    long before = faults(), pages = 0;
    for (int round = 0; round < 40; round++) {
        size_t size = 33 * MIB + check_random(&random) % (20 * MIB);
        free(touched(size));
        pages += (long)(size / PAGE);
    }
    CHECK_THAT(faults() - before < pages / 4, "%ld faults for %ld pages", faults() - before, pages);
}

/* Nothing of them is written to, as in sparse tables. */
static void sparse_blocks_take_no_memory(void) {
    enum { BLOCKS = 500 };
    static char *blocks[BLOCKS];
    size_t before = check_status("VmRSS:");
    for (size_t i = 0; i < BLOCKS; i++) blocks[i] = taken(32 * MIB);
    size_t more = check_status("VmRSS:") - before;
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
    CHECK_THAT(more < 12 * MIB, "%zu bytes for %d blocks", more, BLOCKS);
}

/* More than is kept for no reason. */
static void what_is_missed_is_kept_from_then_on(void) {
    size_t size = 400 * MIB;
    for (int round = 0; round < 3; round++) free(touched(size));
    long before = faults();
    for (int round = 0; round < 3; round++) free(touched(size));
    CHECK_THAT(faults() - before < (long)(size / PAGE), "%ld faults", faults() - before);
}

static void one_long_block_goes_back_at_once(void) {
    /* None is long enough to miss the one before it. */
    const size_t sizes[] = {150 * MIB, 250 * MIB, 800 * MIB};
    size_t before = check_status("VmRSS:");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        free(touched(sizes[i]));
        size_t now = check_status("VmRSS:");
        CHECK_THAT(now < before + 50 * MIB, "%zu bytes: %zu resident, %zu before", sizes[i], now, before);
    }
}

static void idle_mappings_go_back_while_little_is_allocated(void) {
    size_t before = check_status("VmRSS:");
    char *blocks[4];
    for (size_t i = 0; i < 4; i++) blocks[i] = touched(50 * MIB);
    for (size_t i = 0; i < 4; i++) free(blocks[i]);
    size_t now = check_status("VmRSS:");
    CHECK_THAT(now > before + 25 * MIB, "%zu bytes resident: nothing was kept", now - before);
    for (int step = 0; step < 300 && now > before + 20 * MIB; step++) {
        usleep(20000);
        for (int i = 0; i < 8; i++) free(taken(100 * KIB));
        now = check_status("VmRSS:");
    }
    CHECK_THAT(now <= before + 20 * MIB, "%zu bytes resident, %zu before", now, before);
}

/* Each block that follows takes fresh memory, and gives as much back, but no call much more. */
static void a_kept_mapping_goes_back_in_pieces_as_others_take_memory(void) {
    enum { BLOCKS = 400 };
    static char *blocks[BLOCKS];
    for (int round = 0; round < 2; round++) free(touched(200 * MIB));
    size_t before = check_status("VmRSS:"), last = before, now = before;
    for (int i = 0; i < BLOCKS; i++, last = now) {
        blocks[i] = taken(MIB);
        now = check_status("VmRSS:");
        CHECK_THAT(now + 20 * MIB > last, "block %d: %zu bytes went back", i, last - now);
        memset(blocks[i], 1, MIB);
    }
    CHECK_THAT(now < before + 220 * MIB, "%zu bytes resident, %zu before", now, before);
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
}

static void *resting(void *unused) {
    free(taken(100));
    pause();
    return unused;
}

/* The helper rests by then. */
static void in_a_process_with_threads_idle_mappings_go_back_by_themselves(void) {
    pthread_t thread;
    size_t before = check_status("VmRSS:");
    CHECK(pthread_create(&thread, NULL, resting, NULL) == 0);
    for (int i = 0; i < 2; i++) free(touched(200 * MIB));
    sleep(3);
    for (int i = 0; i < 2; i++) free(touched(200 * MIB));
    size_t now = check_status("VmRSS:");
    CHECK_THAT(now > before + 190 * MIB, "%zu bytes resident: nothing was kept", now - before);
    for (int step = 0; step < 1500 && now > before + 20 * MIB; step++) {
        usleep(20000);
        now = check_status("VmRSS:");
    }
    CHECK_THAT(now <= before + 20 * MIB, "%zu bytes resident, %zu before", now, before);
}

static void a_trim_gives_kept_mappings_back(void) {
    size_t before = check_status("VmRSS:"), size = check_status("VmSize:");
    for (int round = 0; round < 2; round++) free(touched(150 * MIB));
    CHECK(check_status("VmRSS:") > before + 140 * MIB);
    CHECK(malloc_trim(0) == 1);
    CHECK(check_status("VmRSS:") < before + 10 * MIB && check_status("VmSize:") < size + 20 * MIB);
}

static void kept_mappings_count_as_free(void) {
    malloc_trim(0);
    struct mallinfo2 before = mallinfo2();
    free(touched(64 * MIB));
    struct mallinfo2 after = mallinfo2();
    CHECK(after.hblkhd == before.hblkhd && after.hblks == before.hblks && after.uordblks == before.uordblks);
    CHECK_THAT(after.fordblks >= before.fordblks + 64 * MIB, "%zu bytes free, %zu before", after.fordblks,
               before.fordblks);
    CHECK(after.arena == after.uordblks + after.fordblks);
}

/* A limit counts what is kept. */
static void under_a_limit_kept_mappings_make_room(void) {
    struct rlimit limit = {check_status("VmSize:") + 900 * MIB, RLIM_INFINITY};
    free(touched(130 * MIB));
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    size_t most = 0;
    for (size_t size = 1000 * MIB; size >= 100 * MIB && most == 0; size -= 10 * MIB) {
        void *block = malloc(size);
        if (block != NULL) most = size;
        free(block);
    }
    CHECK_THAT(most >= 600 * MIB, "only %zu bytes", most);
    for (int round = 0; round < 10; round++) {
        free(touched(70 * MIB));
        void *block = malloc(most);
        CHECK_THAT(block != NULL, "round %d: %zu bytes are not to be had again", round, most);
        free(block);
        /* Nor do others' mappings lack room. */
        void *mapping = mmap(NULL, most - 200 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(mapping != MAP_FAILED && munmap(mapping, most - 200 * MIB) == 0);
    }
    char *block = touched(40 * MIB);
    free(touched(60 * MIB));
    block = (char *)realloc(block, most);
    CHECK(block != NULL && block[40 * MIB - 1] == 1);
    free(block);
}

static void contents_are_kept_in_parts_of_mappings(void) {
    enum { COUNT = 6 };
    char *blocks[COUNT] = {NULL};
    size_t sizes[COUNT] = {0};
    uint64_t random = 11;
    for (int step = 0; step < 400; step++) {
        size_t i = check_random(&random) % COUNT;
        size_t size = (30 + check_random(&random) % 60) * MIB + check_random(&random) % MIB;
        if (blocks[i] != NULL) {
            CHECK(blocks[i][0] == (char)i + 1 && blocks[i][sizes[i] / 2] == (char)i + 1);
            CHECK(blocks[i][sizes[i] - 1] == (char)i + 1 && malloc_usable_size(blocks[i]) >= sizes[i]);
        }
        switch (check_random(&random) % 4) {
        case 0:
            blocks[i] = (char *)realloc(blocks[i], size);
            break;
        case 1:
            free(blocks[i]);
            CHECK(posix_memalign((void **)&blocks[i], (size_t)1 << (12 + check_random(&random) % 15), size) == 0);
            break;
        case 2:
            free(blocks[i]);
            blocks[i] = (char *)calloc(1, size);
            CHECK(blocks[i] != NULL && blocks[i][0] == 0 && blocks[i][size / 2] == 0 && blocks[i][size - 1] == 0);
            for (size_t at = 0; at < size; at += 512 * KIB + 8) CHECK(blocks[i][at] == 0);
            break;
        default:
            free(blocks[i]);
            blocks[i] = taken(size);
        }
        CHECK(blocks[i] != NULL);
        sizes[i] = size;
        blocks[i][0] = blocks[i][size / 2] = blocks[i][size - 1] = (char)i + 1;
    }
    for (size_t i = 0; i < COUNT; i++) free(blocks[i]);
}

static void a_forked_child_uses_what_was_kept(void) {
    free(touched(64 * MIB));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        for (int round = 0; round < 3; round++) free(touched(64 * MIB));
        malloc_trim(0);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    free(touched(64 * MIB));
}

#define FRAMES 6
static char *frames[FRAMES];
static int made, used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void *use_frames(void *count) {
    for (int frame = 0; frame < (int)(intptr_t)count; frame++) {
        CHECK(pthread_mutex_lock(&lock) == 0);
        while (used == made) pthread_cond_wait(&changed, &lock);
        char *block = frames[used % FRAMES];
        CHECK(pthread_mutex_unlock(&lock) == 0);
        CHECK(*block == 1);
        free(block);
        CHECK(pthread_mutex_lock(&lock) == 0);
        used++;
        pthread_cond_broadcast(&changed);
        CHECK(pthread_mutex_unlock(&lock) == 0);
    }
    return NULL;
}

static void frames_through_a_queue_are_touched_once(void) {
    enum { COUNT = 200 };
    pthread_t user = check_thread(use_frames, (void *)(intptr_t)COUNT);
    long before = 0;
    for (int frame = 0; frame < COUNT; frame++) {
        if (frame == COUNT / 2) before = faults();
        char *block = touched(33 * MIB);
        CHECK(pthread_mutex_lock(&lock) == 0);
        while (made - used == FRAMES) pthread_cond_wait(&changed, &lock);
        frames[made % FRAMES] = block;
        made++;
        pthread_cond_broadcast(&changed);
        CHECK(pthread_mutex_unlock(&lock) == 0);
    }
    CHECK(pthread_join(user, NULL) == 0);
    long counted = faults() - before, pages = COUNT / 2 * (long)(33 * MIB / PAGE);
    CHECK_THAT(counted < pages / 5, "%ld faults for %ld pages", counted, pages);
}

static void large_blocks_that_churn_keep_their_memory(void) {
    enum { SLOTS = 8, ROUNDS = 400 };
    char *blocks[SLOTS] = {NULL};
    uint64_t random = 3;
    long before = 0, pages = 0;
    for (int round = -ROUNDS; round < ROUNDS; round++) {
        if (round == 0) before = faults();
        size_t i = check_random(&random) % SLOTS, size = 200 * KIB + check_random(&random) % (23 * MIB);
        free(blocks[i]);
        blocks[i] = touched(size);
        if (round >= 0) pages += (long)(size / PAGE);
    }
    for (size_t i = 0; i < SLOTS; i++) free(blocks[i]);
    long counted = faults() - before;
    CHECK_THAT(counted < pages / 8, "%ld faults for %ld pages", counted, pages);
}

/* Of memory that was used, what was never written to gets none. */
static void calloc_touches_little_of_what_was_little_used(void) {
    const size_t sizes[] = {MIB, 8 * MIB, 20 * MIB, 64 * MIB};
    char *blocks[8];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int round = 0; round < 3; round++) {
            long before = faults();
            for (size_t j = 0; j < 8; j++) {
                blocks[j] = (char *)check_opaque(calloc(1, sizes[i]));
                CHECK(blocks[j] != NULL && blocks[j][7] == 0 && blocks[j][sizes[i] - 1] == 0);
                blocks[j][7] = 1;
            }
            for (size_t j = 0; j < 8; j++) free(blocks[j]);
            long pages = (long)(8 * sizes[i] / PAGE);
            CHECK_THAT(faults() - before < pages / 4, "%zu bytes: %ld faults for %ld pages", sizes[i],
                       faults() - before, pages);
        }
}

/* While little is freed, the hardened lane guards blocks of up to 2 MiB whole. */
static void calloc_keeps_the_memory_of_what_is_written_whole(void) {
    const size_t sizes[] = {check_is_hardened() ? 4 * MIB : MIB, 48 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size = sizes[i];
        long before = 0;
        for (int round = 0; round < 80; round++) {
            if (round == 60) before = faults();
            char *block = (char *)check_opaque(calloc(1, size));
            CHECK(block != NULL);
            check_zeroed(block, size);
            memset(block, round % 3 == 0 ? 0 : 5, size);
            free(block);
        }
        long counted = faults() - before, pages = 20 * (long)(size / PAGE);
        CHECK_THAT(counted < pages / 2, "%zu bytes: %ld faults for %ld pages", size, counted, pages);
    }
}

CHECK_MAIN(CASE(a_mapping_that_comes_and_goes_is_touched_once), CASE(sizes_near_each_other_share_a_mapping),
           CASE(sparse_blocks_take_no_memory), CASE(what_is_missed_is_kept_from_then_on),
           CASE(one_long_block_goes_back_at_once),
           CASE(idle_mappings_go_back_while_little_is_allocated),
           CASE(a_kept_mapping_goes_back_in_pieces_as_others_take_memory),
           CASE(in_a_process_with_threads_idle_mappings_go_back_by_themselves), CASE(a_trim_gives_kept_mappings_back),
           CASE(kept_mappings_count_as_free), CASE(under_a_limit_kept_mappings_make_room),
           CASE(contents_are_kept_in_parts_of_mappings), CASE(a_forked_child_uses_what_was_kept),
           CASE(frames_through_a_queue_are_touched_once), CASE(large_blocks_that_churn_keep_their_memory),
           CASE(calloc_touches_little_of_what_was_little_used),
           CASE(calloc_keeps_the_memory_of_what_is_written_whole))
