/*
 * introspection.c: what glibc's manual promises of malloc_trim, mallopt, mallinfo, mallinfo2,
 * malloc_stats and malloc_info: figures that add up, reports that go where they should, and live
 * blocks that are never disturbed.
 */
#include "check.h"

#include <sys/mman.h>

#include "xml.h"

#define BLOCKS 4096

static void *blocks[BLOCKS];

static size_t block_size(size_t i) { return i % 64 == 63 ? 200 * KIB : 16 + i % 50 * 100; }

/* Takes BLOCKS filled blocks, small and large; returns the bytes asked for. */
static size_t take_blocks(void) {
    size_t bytes = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(block_size(i));
        CHECK(blocks[i] != NULL);
        check_fill(blocks[i], block_size(i), i);
        bytes += block_size(i);
    }
    return bytes;
}

static void return_blocks(void) {
    for (size_t i = 0; i < BLOCKS; i++) {
        check_filled(blocks[i], block_size(i), i);
        free(blocks[i]);
    }
}

static void malloc_trim_gives_free_memory_back(void) {
    int (*trim)(size_t) = (int (*)(size_t))check_symbol("malloc_trim");
    const size_t sizes[] = {64, 1000, 20000, 300000, 3 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        static void *chain;
        size_t before = check_status("VmRSS:");
        for (size_t bytes = 0; bytes < 64 * MIB; bytes += sizes[i]) {
            void **block = (void **)malloc(sizes[i]);
            CHECK(block != NULL);
            memset(block, 1, sizes[i]);
            *block = chain;
            chain = block;
        }
        CHECK(check_status("VmRSS:") > before + 48 * MIB);
        while (chain != NULL) {
            void *next = *(void **)chain;
            free(chain);
            chain = next;
        }
        int returned = trim(0);
        size_t after = check_status("VmRSS:");
        CHECK(returned == 0 || returned == 1);
        CHECK_THAT(after < before + 16 * MIB,
                   "%zu-byte blocks: %zu bytes resident before, %zu after free and trim", sizes[i],
                   before, after);
    }
}

static void malloc_trim_leaves_live_blocks_alone(void) {
    take_blocks();
    for (size_t i = 0; i < BLOCKS; i += 2) free(blocks[i]);
    CHECK(malloc_trim(0) >= 0);
    CHECK(malloc_trim(MIB) >= 0);
    for (size_t i = 0; i < BLOCKS; i += 2) {
        blocks[i] = malloc(block_size(i));
        CHECK(blocks[i] != NULL);
        check_fill(blocks[i], block_size(i), i);
    }
    CHECK(malloc_trim(0) >= 0);
    return_blocks();
}

static void mallopt_answers_zero_or_one_and_changes_nothing_that_hurts(void) {
    int (*option)(int, int) = (int (*)(int, int))check_symbol("mallopt");
    const int names[] = {M_MXFAST,        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD,
                         M_MMAP_MAX,      M_CHECK_ACTION,   M_PERTURB, M_ARENA_TEST,
                         M_ARENA_MAX,     0,                12345};
    const int values[] = {0, 1, 64, 65536, 1 << 20};
    take_blocks();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        for (size_t j = 0; j < sizeof values / sizeof values[0]; j++) {
            int result = option(names[i], values[j]);
            CHECK_THAT(result == 0 || result == 1, "mallopt(%d, %d) gave %d", names[i], values[j],
                       result);
            void *block = malloc(100 << j);
            CHECK(block != NULL);
            free(block);
        }
    }
    return_blocks();
}

static void mallinfo2_follows_the_live_bytes(void) {
    struct mallinfo2 (*info)(void) = (struct mallinfo2 (*)(void))check_symbol("mallinfo2");
    struct mallinfo2 before = info();
    size_t bytes = take_blocks();
    struct mallinfo2 during = info();
    return_blocks();
    struct mallinfo2 after = info();
    size_t in_use_before = before.uordblks + before.hblkhd;
    size_t in_use_during = during.uordblks + during.hblkhd;
    size_t in_use_after = after.uordblks + after.hblkhd;
    CHECK_THAT(in_use_during >= in_use_before + bytes,
               "%zu bytes in use, then %zu bytes taken, then %zu in use", in_use_before, bytes,
               in_use_during);
    CHECK_THAT(in_use_during <= in_use_before + 2 * bytes, "%zu bytes in use for %zu live",
               in_use_during - in_use_before, bytes);
    CHECK_THAT(in_use_after + bytes / 2 <= in_use_during, "%zu bytes in use, after free still %zu",
               in_use_during, in_use_after);
    /* arena: bytes taken from the system outside mmap; it holds what is used and what is free. */
    CHECK(during.arena >= during.uordblks);
    CHECK(during.fordblks <= during.arena);
}

static void mallinfo_agrees_with_mallinfo2(void) {
    struct mallinfo2 (*wide)(void) = (struct mallinfo2 (*)(void))check_symbol("mallinfo2");
    struct mallinfo (*narrow)(void) = (struct mallinfo (*)(void))check_symbol("mallinfo");
    take_blocks();
    struct mallinfo2 exact = wide();
    struct mallinfo rounded = narrow();
    CHECK(exact.arena < INT_MAX && exact.uordblks < INT_MAX);
    long difference = (long)exact.uordblks - rounded.uordblks;
    CHECK_THAT(labs(difference) < (long)MIB, "mallinfo2 says %zu, mallinfo %d", exact.uordblks,
               rounded.uordblks);
    difference = (long)exact.hblkhd - rounded.hblkhd;
    CHECK_THAT(labs(difference) < (long)MIB, "mallinfo2 says %zu, mallinfo %d", exact.hblkhd,
               rounded.hblkhd);
    return_blocks();
}

/* Makes descriptor `target` a memory file, calls `write_to_it`, and returns the file's length. */
static size_t bytes_written(int target, void (*write_to_it)(void)) {
    int file = memfd_create("output", MFD_CLOEXEC);
    int saved = dup(target);
    CHECK(file >= 0 && saved >= 0);
    CHECK(dup2(file, target) == target);
    write_to_it();
    CHECK(dup2(saved, target) == target);
    off_t length = lseek(file, 0, SEEK_END);
    CHECK(length >= 0);
    close(file);
    close(saved);
    return (size_t)length;
}

static void print_statistics(void) {
    malloc_stats();
    fflush(stdout);
    fflush(stderr);
}

static void malloc_stats_reports_on_stderr_only(void) {
    check_symbol("malloc_stats");
    take_blocks();
    size_t on_stderr = bytes_written(STDERR_FILENO, print_statistics);
    CHECK_THAT(on_stderr > 20, "malloc_stats wrote %zu bytes to stderr", on_stderr);
    int null = open("/dev/null", O_WRONLY);
    int saved = dup(STDERR_FILENO);
    CHECK(null >= 0 && saved >= 0 && dup2(null, STDERR_FILENO) == STDERR_FILENO);
    size_t on_stdout = bytes_written(STDOUT_FILENO, print_statistics);
    CHECK(dup2(saved, STDERR_FILENO) == STDERR_FILENO);
    CHECK_THAT(on_stdout == 0, "malloc_stats wrote %zu bytes to stdout", on_stdout);
    return_blocks();
}

/* Writes the report into a stream that itself allocates while it is written, and checks it. */
static void check_report(void) {
    int (*info)(int, FILE *) = (int (*)(int, FILE *))check_symbol("malloc_info");
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    CHECK(stream != NULL);
    int result = info(0, stream);
    CHECK_THAT(result == 0, "malloc_info gave %d: %s", result, strerror(errno));
    CHECK(fclose(stream) == 0);
    CHECK(length > 0 && strlen(text) == length);
    const char *fault = xml_fault(text, "malloc");
    CHECK_THAT(fault == NULL, "malloc_info is not well-formed XML from: %.200s", fault);
    CHECK(strstr(text, "version=") != NULL);
    free(text);
}

static void malloc_info_writes_well_formed_xml(void) {
    check_report();
    take_blocks();
    check_report();
    return_blocks();
    check_report();
    const char *const malformed[] = {"", "<a>", "<malloc><b></malloc></b>", "<malloc a=1/>",
                                     "<malloc/><malloc/>", "<malloc>&</malloc>", "<malloc"};
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++)
        CHECK_THAT(xml_fault(malformed[i], "malloc") != NULL, "the XML check accepts \"%s\"",
                   malformed[i]);
}

static void malloc_info_writes_to_the_stream_it_is_given(void) {
    int (*info)(int, FILE *) = (int (*)(int, FILE *))check_symbol("malloc_info");
    FILE *stream = tmpfile();
    CHECK(stream != NULL);
    CHECK(fputs("before\n", stream) >= 0);
    CHECK(info(0, stream) == 0);
    CHECK(fputs("after\n", stream) >= 0);
    CHECK(fflush(stream) == 0);
    long length = ftell(stream);
    CHECK(length > (long)strlen("before\nafter\n"));
    char *text = (char *)calloc(1, (size_t)length + 1);
    rewind(stream);
    CHECK(fread(text, 1, (size_t)length, stream) == (size_t)length);
    CHECK(strncmp(text, "before\n", 7) == 0);
    CHECK(strcmp(text + length - 6, "after\n") == 0);
    text[length - 6] = '\0';
    CHECK(xml_fault(text + 7, "malloc") == NULL);
    free(text);
    fclose(stream);
}

static void malloc_info_refuses_unknown_options(void) {
    int (*info)(int, FILE *) = (int (*)(int, FILE *))check_symbol("malloc_info");
    FILE *stream = tmpfile();
    CHECK(stream != NULL);
    CHECK(info(1, stream) != 0);
    CHECK(info(-1, stream) != 0);
    CHECK(fflush(stream) == 0 && ftell(stream) == 0);
    fclose(stream);
}

static int stop;

static void *allocate_all_the_time(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        size_t size = check_random_size(&random);
        void *block = malloc(size);
        CHECK(block != NULL);
        *(volatile char *)block = 1;
        free(block);
    }
    return NULL;
}

static void reports_work_while_other_threads_allocate(void) {
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        threads[i] = check_thread(allocate_all_the_time, (void *)(i + 1));
    for (int round = 0; round < 100; round++) {
        check_report();
        CHECK(malloc_trim(0) >= 0);
        CHECK(mallinfo2().uordblks <= mallinfo2().arena + GIB);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (size_t i = 0; i < 3; i++) check_join(threads[i]);
}

CHECK_MAIN(CASE(malloc_trim_gives_free_memory_back),
           CASE(malloc_trim_leaves_live_blocks_alone),
           CASE(mallopt_answers_zero_or_one_and_changes_nothing_that_hurts),
           CASE(mallinfo2_follows_the_live_bytes),
           CASE(mallinfo_agrees_with_mallinfo2),
           CASE(malloc_stats_reports_on_stderr_only),
           CASE(malloc_info_writes_well_formed_xml),
           CASE(malloc_info_writes_to_the_stream_it_is_given),
           CASE(malloc_info_refuses_unknown_options),
           CASE(reports_work_while_other_threads_allocate))
