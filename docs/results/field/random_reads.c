/* Random reads of small blocks, bound by address translation: nanoseconds a read, resident and huge pages.
 *
 * gcc -O2 random_reads.c && LD_PRELOAD=… ./a.out MEGABYTES PERCENT
 * PERCENT of the blocks are freed and allocated again before the reads.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MEAN_BYTES = 96, READS = 20000000 };

static double seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static long megabytes_of(const char *row) {
    char line[256];
    long kilobytes = 0;
    FILE *rows = fopen("/proc/self/smaps_rollup", "r");
    if (rows == NULL) return -1;
    while (fgets(line, sizeof line, rows) != NULL)
        if (strncmp(line, row, strlen(row)) == 0) kilobytes = strtol(line + strlen(row), NULL, 10);
    fclose(rows);
    return kilobytes / 1024;
}

static uint64_t draw(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static char *fresh(void) {
    char *block = malloc(64 + draw() % 64);
    if (block == NULL) exit(1);
    memset(block, 1, 64);
    return block;
}

int main(int count, char **arguments) {
    if (count != 3) return fprintf(stderr, "random_reads MEGABYTES PERCENT\n"), 2;
    size_t blocks = ((size_t)atol(arguments[1]) << 20) / MEAN_BYTES;
    uint64_t percent = (uint64_t)atol(arguments[2]), sum = 0;
    char **block = malloc(blocks * sizeof *block);
    if (block == NULL) return 1;
    for (size_t i = 0; i < blocks; i++) block[i] = fresh();
    for (size_t i = 0; i < blocks; i++)
        if (draw() % 100 < percent) free(block[i]), block[i] = NULL;
    for (size_t i = 0; i < blocks; i++)
        if (block[i] == NULL) block[i] = fresh();
    double start = seconds();
    for (long i = 0; i < READS; i++) sum += (uint64_t)block[draw() % blocks][8];
    double each = (seconds() - start) / READS * 1e9;
    printf("%.1f ns a read, %ld MB resident, %ld MB in huge pages (%d)\n", each, megabytes_of("Rss:"),
           megabytes_of("AnonHugePages:"), (int)(sum & 1));
    return 0;
}
