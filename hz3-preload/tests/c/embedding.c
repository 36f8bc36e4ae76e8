/*
 * embedding.c: a program that is linked with hz3 and uses hz3.h. C and C++. Writes the table to standard output by
 * hz3_dump and to standard error by malloc_stats.
 */
#include <errno.h>
#include <hz3.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __GLIBC__
void malloc_stats(void);
#endif

#define CHECK(condition)                                                           \
    do {                                                                           \
        if (!(condition)) {                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                               \
        }                                                                          \
    } while (0)

enum { BLOCKS = 4096, BLOCK_BYTES = 8192 };

static char *take(void) {
#ifdef __cplusplus
    return new char[BLOCK_BYTES];
#else
    return (char *)malloc(BLOCK_BYTES);
#endif
}

static void drop(char *block) {
#ifdef __cplusplus
    delete[] block;
#else
    free(block);
#endif
}

static char *blocks[BLOCKS];

static void *drop_all(void *unused) {
    for (int i = 0; i < BLOCKS; i++) drop(blocks[i]);
    return unused;
}

static volatile int forks;

/* In a process with one thread no lock may be waited for: this very thread may hold it. */
static void fork_in_a_handler(int signal) {
    (void)signal;
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    forks++;
}

static void fork_in_handlers(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = fork_in_a_handler;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    const struct itimerval period = {{0, 1000}, {0, 1000}}, none = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &period, NULL) == 0);
    void *large[16] = {NULL};
    for (unsigned i = 0; forks < 300; i++) {
        free(large[i % 16]);
        CHECK((large[i % 16] = malloc(100000 + i % 4096)) != NULL);
    }
    CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0);
    for (int i = 0; i < 16; i++) free(large[i]);
}

int main(void) {
    fork_in_handlers();
    struct hz3_stats before, held, after, part;
    CHECK(strncmp(hz3_version(), "hz3 ", 4) == 0);
    CHECK(hz3_stats(NULL, 0) == sizeof before);
    CHECK(hz3_stats(&before, sizeof before) == sizeof before);

    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = take();
        CHECK(blocks[i] != NULL);
        memset(blocks[i], 1, BLOCK_BYTES);
    }
    hz3_stats(&held, sizeof held);
    CHECK(held.live_bytes >= before.live_bytes + (size_t)BLOCKS * BLOCK_BYTES);
    CHECK(held.mapped_bytes == held.committed_bytes + held.direct_bytes + held.unreturned_bytes + held.metadata_bytes);

    memset(&part, 0x5a, sizeof part);
    hz3_stats(&part, sizeof(size_t) + 3);
    CHECK(part.reserved_bytes == held.reserved_bytes);
    CHECK((part.mapped_bytes & 0xff) == 0x5a);

    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, drop_all, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(hz3_trim() == 1);
    hz3_stats(&after, sizeof after);
    CHECK(after.purged_bytes > held.purged_bytes);
    CHECK(after.live_bytes < before.live_bytes + (size_t)BLOCKS * BLOCK_BYTES / 2);

    struct hz3_region *region = hz3_region_new(1 << 20);
    struct hz3_region_stats counts;
    CHECK(region != NULL);
    CHECK(hz3_region_stats(region, &counts, sizeof counts) == sizeof counts && counts.limit_bytes == 1 << 20);
    CHECK(hz3_region_calloc(region, 10, 100) != NULL && hz3_region_aligned_alloc(region, 64, 100) != NULL);
    hz3_region_free(region, hz3_region_realloc(region, hz3_region_malloc(region, 10), 1000));
    CHECK(hz3_region_stats(NULL, &counts, sizeof counts) == sizeof counts && counts.live_blocks == 2);
    hz3_region_destroy(region);

    errno = 0;
    CHECK(hz3_dump(-1) == -1 && errno == EBADF);
    errno = 0;
    CHECK(hz3_profile_dump(NULL) == -1 && errno == EINVAL);
    CHECK(hz3_dump(1) == 0);
    malloc_stats();
    return 0;
}
