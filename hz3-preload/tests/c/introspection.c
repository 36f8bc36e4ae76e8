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

/*
 * Whether `count` live blocks of `usable` bytes, as malloc_usable_size says, count as `counted`: to the byte, since all
 * of a slot or of the pages may be used; in the hardened lane what was asked for may, and a canary and a guard follow.
 */
static int counts_as(size_t counted, size_t usable, size_t count) {
    if (!check_is_hardened()) return counted == usable;
    return counted > usable && counted <= usable + usable / 8 + count * 8192;
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
    if (check_any_malloc()) return;
    CHECK(during.arena == during.uordblks + during.fordblks);
    CHECK(during.fsmblks + during.keepcost <= during.fordblks);
    CHECK_THAT(in_use_after == in_use_before, "%zu bytes in use, and %zu after all was freed",
               in_use_before, in_use_after);
    void *direct = malloc(200 * MIB);
    CHECK(direct != NULL);
    struct mallinfo2 with = info();
    CHECK(with.hblks == after.hblks + 1 && counts_as(with.hblkhd - after.hblkhd, malloc_usable_size(direct), 1));
    CHECK(with.uordblks == after.uordblks);
    free(direct);
    CHECK(info().hblks == after.hblks && info().hblkhd == after.hblkhd);
}

static char report[32768];

/* Has malloc_info write its report; skips where another allocator's has other rows. */
static void take_report(void) {
    FILE *stream = fmemopen(report, sizeof report, "w");
    CHECK(stream != NULL && malloc_info(0, stream) == 0 && fclose(stream) == 0);
    if (check_any_malloc() && strstr(report, "\"live_bytes\"") == NULL)
        check_skip("this allocator's malloc_info has other rows");
}

/* The value of the row `name` in the report that was taken last. */
static size_t row(const char *name) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, "name=\"%s\" value=\"", name);
    const char *at = strstr(report, wanted);
    CHECK_THAT(at != NULL, "no row %s in malloc_info", name);
    return strtoull(at + strlen(wanted), NULL, 10);
}

static size_t sum_of(const char *const *names, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) sum += row(names[i]);
    return sum;
}

/* Bytes of the live blocks that may be used. */
static size_t usable_of_blocks(void) {
    size_t bytes = 0;
    for (size_t i = 0; i < BLOCKS; i++) bytes += malloc_usable_size(blocks[i]);
    return bytes;
}

/* The value of an attribute of the element at `at`. */
static size_t attribute(const char *at, const char *name) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, " %s=\"", name);
    const char *found = strstr(at, wanted);
    CHECK_THAT(found != NULL && found < strchr(at, '>'), "no %s in %.120s", name, at);
    return strtoull(found + strlen(wanted), NULL, 10);
}

/* The sizes of the report that was taken last, one by one and all together. */
static void check_sizes(void) {
    size_t live = 0, threads = 0, depots = 0, spans = 0, rests = 0, totals = 0, before = 0;
    for (const char *at = strstr(report, "<size "); at != NULL; at = strstr(at + 1, "<size ")) {
        size_t to = attribute(at, "to"), total = attribute(at, "total"), rest = attribute(at, "rest");
        CHECK_THAT(attribute(at, "from") <= to && to > before, "%zu after %zu", to, before);
        CHECK(attribute(at, "from") > before || before == 0);
        before = to;
        size_t slots = attribute(at, "live") + attribute(at, "threads") + attribute(at, "depots") +
                       attribute(at, "spans");
        CHECK_THAT(slots * to + rest == total, "%zu slots of %zu bytes and %zu more, total %zu",
                   slots, to, rest, total);
        live += attribute(at, "live") * to;
        threads += attribute(at, "threads") * to;
        depots += attribute(at, "depots") * to;
        spans += attribute(at, "spans") * to;
        rests += rest;
        totals += total;
    }
    CHECK(before > 0);
    CHECK_THAT(live == row("small_live_bytes"), "live: %zu by size", live);
    CHECK_THAT(threads == row("magazine_bytes") + row("stash_bytes") + row("quarantine_bytes"), "threads: %zu by size", threads);
    CHECK_THAT(depots == row("depot_bytes"), "depots: %zu by size", depots);
    CHECK_THAT(spans == row("span_free_bytes"), "free in spans: %zu by size", spans);
    CHECK_THAT(rests == row("span_waste_bytes"), "rests of spans: %zu by size", rests);
    CHECK_THAT(totals == row("small_span_bytes"), "spans: %zu by size", totals);
}

/* Takes a report and checks it; returns the live bytes. */
static size_t live_bytes_of_balanced_books(void) {
    static const char *const committed[] = {
        "small_live_bytes", "large_bytes",      "magazine_bytes", "stash_bytes", "depot_bytes",
        "span_free_bytes",  "span_waste_bytes", "dirty_bytes",    "clean_bytes", "purging_bytes",
        "quarantine_bytes", "held_bytes"};
    static const char *const mapped[] = {"committed_bytes", "direct_bytes", "unreturned_bytes", "metadata_bytes"};
    static const char *const live[] = {"small_live_bytes", "large_bytes", "direct_bytes"};
    take_report();
    size_t sum = sum_of(committed, sizeof committed / sizeof committed[0]);
    CHECK_THAT(sum == row("committed_bytes"), "parts of %zu, committed are %zu", sum,
               row("committed_bytes"));
    CHECK(sum_of(mapped, 4) == row("mapped_bytes"));
    CHECK(sum_of(live, 3) == row("live_bytes"));
    CHECK(row("committed_bytes") <= row("reserved_bytes"));
    check_sizes();
    return row("live_bytes");
}

static void the_rows_of_a_quiet_process_add_up(void) {
    size_t before = live_bytes_of_balanced_books();
    take_blocks();
    void *direct = malloc(200 * MIB);
    CHECK(direct != NULL);
    size_t taken = usable_of_blocks() + malloc_usable_size(direct);
    size_t during = live_bytes_of_balanced_books();
    CHECK_THAT(counts_as(during - before, taken, BLOCKS + 1), "%zu bytes taken, live_bytes grew by %zu", taken,
               during - before);
    CHECK(row("direct_bytes") >= 200 * MIB && row("direct_blocks") >= 1);
    free(direct);
    return_blocks();
    size_t after = live_bytes_of_balanced_books();
    CHECK_THAT(after == before, "%zu bytes live, then %zu", before, after);
    malloc_trim(0);
    after = live_bytes_of_balanced_books();
    CHECK_THAT(after == before, "%zu bytes live, and %zu after a trim", before, after);
}

/* What other threads hold in their caches is free, and what they have taken is live. */
static pthread_barrier_t quiet;

static void *take_and_return(void *unused) {
    static __thread void *own[2000];
    (void)unused;
    for (int i = 0; i < 2000; i++) CHECK((own[i] = malloc((size_t)(i % 40 + 1) * 16)) != NULL);
    pthread_barrier_wait(&quiet);
    pthread_barrier_wait(&quiet);
    for (int i = 0; i < 2000; i++) free(own[i]);
    pthread_barrier_wait(&quiet);
    pthread_barrier_wait(&quiet);
    return NULL;
}

static void other_threads_caches_are_not_live(void) {
    enum { THREADS = 4 };
    size_t bytes = 0;
    pthread_t threads[THREADS];
    for (int i = 0; i < 2000; i++) {
        void *block = malloc((size_t)(i % 40 + 1) * 16);
        bytes += malloc_usable_size(block);
        free(block);
    }
    take_report();
    CHECK(pthread_barrier_init(&quiet, NULL, THREADS + 1) == 0);
    for (int i = 0; i < THREADS; i++) threads[i] = check_thread(take_and_return, NULL);
    pthread_barrier_wait(&quiet);
    size_t with_blocks = mallinfo2().uordblks, live = live_bytes_of_balanced_books();
    pthread_barrier_wait(&quiet);
    pthread_barrier_wait(&quiet);
    size_t without = mallinfo2().uordblks;
    live -= live_bytes_of_balanced_books();
    CHECK_THAT(counts_as(with_blocks - without, THREADS * bytes, THREADS * 2000), "%zu bytes freed, uordblks fell by %zu",
               THREADS * bytes, with_blocks - without);
    CHECK_THAT(counts_as(live, THREADS * bytes, THREADS * 2000), "%zu bytes freed, live_bytes fell by %zu", THREADS * bytes,
               live);
    CHECK_THAT(mallinfo2().fsmblks > 0, "four threads that just freed have nothing in their caches");
    pthread_barrier_wait(&quiet);
    for (int i = 0; i < THREADS; i++) check_join(threads[i]);
    live_bytes_of_balanced_books();
}

/* The kernel's count of private writable pages grows by what mapped_bytes grows by. */
static void mapped_bytes_are_what_the_system_counts(void) {
    take_report();
    size_t mapped_before = row("mapped_bytes"), data_before = check_status("VmData:");
    static void *chain;
    for (int i = 0; i < 200000; i++) {
        void **block = (void **)malloc(1000);
        CHECK(block != NULL);
        *block = chain;
        chain = block;
    }
    void *direct = malloc(50 * MIB);
    CHECK(direct != NULL);
    take_report();
    size_t mapped = row("mapped_bytes") - mapped_before;
    size_t data = check_status("VmData:") - data_before;
    CHECK(mapped > 230 * MIB);
    CHECK_THAT(mapped == data, "mapped_bytes grew by %zu, VmData by %zu", mapped, data);
    free(direct);
    while (chain != NULL) {
        void *next = *(void **)chain;
        free(chain);
        chain = next;
    }
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
           CASE(the_rows_of_a_quiet_process_add_up),
           CASE(other_threads_caches_are_not_live),
           CASE(mapped_bytes_are_what_the_system_counts),
           CASE(mallinfo_agrees_with_mallinfo2),
           CASE(malloc_stats_reports_on_stderr_only),
           CASE(malloc_info_writes_well_formed_xml),
           CASE(malloc_info_writes_to_the_stream_it_is_given),
           CASE(malloc_info_refuses_unknown_options),
           CASE(reports_work_while_other_threads_allocate))
