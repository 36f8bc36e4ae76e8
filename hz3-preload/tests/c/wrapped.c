/*
 * wrapped.c: a program with wrappers of its own around the C library's functions, which it reaches by glibc's private
 * names. Whatever is made of malloc and free goes through the wrappers, and the blocks are hz3's.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

/* The headers say that the functions call nothing of this file. */
static volatile int taken, given, grown;

void *malloc(size_t size) { taken++; return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { taken++; return __libc_calloc(count, size); }
void *memalign(size_t alignment, size_t size) { taken++; return __libc_memalign(alignment, size); }
void *realloc(void *block, size_t size) { grown++; return __libc_realloc(block, size); }
void free(void *block) { given += block != NULL; __libc_free(block); }

#define EXPECT(condition)                                                      \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
            return 1;                                                          \
        }                                                                      \
    } while (0)

int main(void) {
    taken = given = grown = 0;
    free(malloc(10));
    free(calloc(10, 10));
    free(memalign(64, 100));
    EXPECT(taken == 3 && given == 3);
    void *block = reallocarray(NULL, 10, 10);
    EXPECT(block != NULL && grown == 1 && malloc_usable_size(block) >= 100);
    block = reallocarray(block, 100, 100);
    EXPECT(block != NULL && grown == 2);
    free(block);
    char *text = strdup("text");
    EXPECT(taken == 4 && malloc_usable_size(text) >= 5);
    free(text);
    void *other = NULL;
    EXPECT(posix_memalign(&other, 64, 100) == 0 && (uintptr_t)other % 64 == 0);
    free(other);
    free(aligned_alloc(64, 128));
    free(valloc(100));
    free(pvalloc(100));
    EXPECT(given == 9);
    return 0;
}
