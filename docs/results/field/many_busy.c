/*
 * many_busy.c: threads that each replace blocks of 16 bytes to 32 KiB at random, at full speed.
 * Usage: many_busy THREADS BLOCKS SECONDS. Prints live and resident memory, its peak, and replacements per second.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int blocks;
static atomic_int stopping;
static atomic_long live, done;

static unsigned next(unsigned long *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (unsigned)(*state >> 20);
}

static void *work(void *number) {
    unsigned long state = (unsigned long)number * 2654435761u + 88172645463325252ul;
    char **starts = calloc((size_t)blocks, sizeof *starts);
    size_t *sizes = calloc((size_t)blocks, sizeof *sizes);
    long count = 0;
    for (; !atomic_load_explicit(&stopping, memory_order_relaxed); count++) {
        unsigned i = next(&state) % (unsigned)blocks;
        unsigned power = 4 + next(&state) % 11;
        size_t size = (1u << power) + next(&state) % (1u << power);
        free(starts[i]);
        atomic_fetch_add_explicit(&live, (long)size - (long)sizes[i], memory_order_relaxed);
        sizes[i] = size;
        starts[i] = malloc(size);
        memset(starts[i], 1, size);
    }
    atomic_fetch_add(&done, count);
    return NULL;
}

static long resident_mib(void) {
    long all = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &all, &resident) != 2) exit(1);
    fclose(file);
    return resident / 256;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int threads = atoi(argv[1]), seconds = atoi(argv[3]);
    blocks = atoi(argv[2]);
    pthread_t *ids = calloc((size_t)threads, sizeof *ids);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (long i = 0; i < threads; i++) pthread_create(&ids[i], &small, work, (void *)(i + 1));
    long peak = 0;
    for (int i = 0; i < seconds * 20; i++) {
        usleep(50000);
        long now = resident_mib();
        peak = now > peak ? now : peak;
    }
    printf("%d threads: live %ld, resident %ld, peak %ld MiB; ", threads, live >> 20, resident_mib(), peak);
    stopping = 1;
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    printf("%.1f million replacements a second\n", (double)done / 1e6 / seconds);
}
