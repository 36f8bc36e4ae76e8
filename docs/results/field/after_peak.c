/* A program that goes on with part of what it had: resident memory while threads renew the rest, block by block.
 *
 * gcc -O2 -pthread after_peak.c && LD_PRELOAD=… ./a.out SECONDS ONE_OF
 * Each of four threads fills 104 MB, frees all but ONE_OF so many blocks, and renews 200 at random each millisecond.
 */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, BLOCKS = 70000, SMALLEST = 100, LARGEST = 3000, PAGE = 4096 };
static double seconds;
static int one_of;

struct renewal {
    size_t live;
    long calls;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static uint64_t draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t resident(void) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*u %lu", &pages) != 1)
        abort();
    fclose(file);
    return pages * PAGE;
}

static char *written(uint64_t *state, size_t *bytes) {
    *bytes = SMALLEST + draw(state) % (LARGEST - SMALLEST);
    char *block = malloc(*bytes);
    for (size_t place = 0; place < *bytes; place += PAGE)
        block[place] = 1;
    block[*bytes - 1] = 1;
    return block;
}

static void *work(void *argument) {
    struct renewal *renewal = argument;
    uint64_t state = (uintptr_t)argument | 1;
    char **blocks = calloc(BLOCKS, sizeof *blocks);
    size_t *bytes = calloc(BLOCKS, sizeof *bytes), count = 0;
    for (int number = 0; number < BLOCKS; number++)
        blocks[number] = written(&state, &bytes[number]);
    for (int turn = 0; turn < 2 * BLOCKS; turn++) {
        size_t one = draw(&state) % BLOCKS;
        free(blocks[one]);
        blocks[one] = written(&state, &bytes[one]);
    }
    for (int number = 0; number < BLOCKS; number++) {
        if (number % one_of) {
            free(blocks[number]);
        } else {
            blocks[count] = blocks[number];
            bytes[count++] = bytes[number];
        }
    }
    for (double end = now() + seconds; now() < end; usleep(1000)) {
        for (int turn = 0; turn < 200; turn++, renewal->calls++) {
            size_t one = draw(&state) % count;
            free(blocks[one]);
            blocks[one] = written(&state, &bytes[one]);
        }
    }
    for (size_t number = 0; number < count; number++)
        renewal->live += bytes[number];
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t threads[THREADS];
    static struct renewal renewals[THREADS];
    if (count != 3 || (seconds = atof(arguments[1])) <= 0 || (one_of = atoi(arguments[2])) < 1)
        return fputs("after_peak SECONDS ONE_OF\n", stderr), 2;
    for (int number = 0; number < THREADS; number++)
        pthread_create(&threads[number], NULL, work, &renewals[number]);
    size_t live = 0, calls = 0, end = 0;
    for (double half = 0.5; half <= seconds; half += 0.5) {
        usleep(500000);
        end = resident();
        printf("%.1f s: %zu MB\n", half, end >> 20);
    }
    for (int number = 0; number < THREADS; number++) {
        pthread_join(threads[number], NULL);
        live += renewals[number].live;
        calls += renewals[number].calls;
    }
    printf("live %zu MB, resident %zu, %zu calls\n", live >> 20, end >> 20, calls);
    return 0;
}
