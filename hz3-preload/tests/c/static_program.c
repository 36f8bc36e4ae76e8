/*
 * static_program.c: a program linked statically. It has its own malloc and no dynamic loader, so a
 * preload library must leave it alone.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *allocate(void *unused) {
    (void)unused;
    for (size_t size = 1; size < 3000000; size = size * 3 / 2 + 1) {
        char *block = (char *)malloc(size);
        if (block == NULL) abort();
        memset(block, 1, size);
        block = (char *)realloc(block, 2 * size);
        if (block == NULL || block[size - 1] != 1) abort();
        free(block);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[3];
    char line[512];
    for (int i = 0; i < 3; i++)
        if (pthread_create(&threads[i], NULL, allocate, NULL) != 0) return 1;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    FILE *maps = fopen("/proc/self/maps", "r");
    if (maps == NULL) return 1;
    while (fgets(line, sizeof line, maps) != NULL) {
        if (strstr(line, "hakozuna") != NULL) {
            fprintf(stderr, "%s:%d: hz3 is loaded: %s", __FILE__, __LINE__, line);
            return 1;
        }
    }
    fclose(maps);
    return 0;
}
