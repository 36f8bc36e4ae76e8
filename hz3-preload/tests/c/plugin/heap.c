/*
 * heap.c: an allocator that defines the basic functions alone, and that stops the process if it is given another's
 * block. Preloaded before hz3, its blocks are what hz3's further functions must give and take.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POOL_BYTES ((size_t)64 << 20)
static char pool[POOL_BYTES] __attribute__((aligned(4096)));
static size_t used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Before each block. */
struct header { size_t size, magic; };
#define LIVE 0x6c697665

int heap_owns(const void *block) { return (uintptr_t)block - (uintptr_t)pool < POOL_BYTES; }

void *memalign(size_t alignment, size_t size) {
    if (alignment < 16) alignment = 16;
    if (size > POOL_BYTES) { errno = ENOMEM; return NULL; }
    pthread_mutex_lock(&lock);
    size_t start = (used + sizeof(struct header) + alignment - 1) & ~(alignment - 1);
    if (start + size > POOL_BYTES) { pthread_mutex_unlock(&lock); errno = ENOMEM; return NULL; }
    used = start + size;
    pthread_mutex_unlock(&lock);
    struct header *header = (struct header *)(pool + start) - 1;
    header->size = size;
    header->magic = LIVE;
    return pool + start;
}

static struct header *live(void *block, const char *text) {
    struct header *header = (struct header *)block - 1;
    if (!heap_owns(block) || header->magic != LIVE) {
        if (write(2, text, strlen(text)) < 0) abort();
        abort();
    }
    return header;
}

void *malloc(size_t size) { return memalign(16, size); }
void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) { errno = ENOMEM; return NULL; }
    return memalign(16, bytes);
}
void free(void *block) {
    if (block != NULL) live(block, "heap.c: free of another's block\n")->magic = 0;
}
void *realloc(void *block, size_t size) {
    void *new = memalign(16, size);
    if (block == NULL || new == NULL) return new;
    size_t old = live(block, "heap.c: realloc of another's block\n")->size;
    memcpy(new, block, old < size ? old : size);
    free(block);
    return new;
}
