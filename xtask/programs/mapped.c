/*
 * A program on UCX, which must hear of every page that is given back: a handler that allocates, blocks whose memory goes
 * when they are freed or trimmed, and threads.
 */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucm/api/ucm.h>

/* Volatile: malloc and free are declared leaves, which call nobody here. */
static char *volatile watched;
static volatile int is_gone;
static volatile long mapped, unmapped;
static __thread volatile int inside;

static void on_event(ucm_event_type_t type, ucm_event_t *event, void *nothing) {
    (void)nothing;
    if (type == UCM_EVENT_VM_MAPPED) {
        __atomic_fetch_add(&mapped, 1, __ATOMIC_RELAXED);
    } else {
        char *start = event->vm_unmapped.address;
        __atomic_fetch_add(&unmapped, 1, __ATOMIC_RELAXED);
        if (start <= watched && watched < start + event->vm_unmapped.size) is_gone = 1;
    }
    if (inside) return;
    inside = 1;
    void *block = malloc(100 + unmapped % 5000), *other = realloc(malloc(50), 20000);
    free(block);
    free(other);
    inside = 0;
}

static void *work(void *seed) {
    for (int round = 0; round < 100; round++) {
        void *blocks[50];
        for (int i = 0; i < 50; i++) {
            blocks[i] = malloc(1 + ((long)seed + i * round * 7919L) % 300000);
            memset(blocks[i], 1, 1);
        }
        for (int i = 0; i < 50; i++) free(blocks[i]);
        if (round % 20 == 0) malloc_trim(0);
    }
    return NULL;
}

int main(void) {
    if (ucm_set_event_handler(UCM_EVENT_VM_MAPPED | UCM_EVENT_VM_UNMAPPED, 0, on_event, NULL) != UCS_OK) return 2;
    for (size_t size = 100000; size <= 100000000; size *= 10) {
        char *block = malloc(size);
        memset(block, 1, size);
        is_gone = 0;
        watched = block;
        free(block);
        malloc_trim(0);
        watched = NULL;
        if (!is_gone) {
            printf("nothing was said of the %zu bytes that are gone\n", size);
            return 1;
        }
    }
    pthread_t threads[4];
    for (long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    if (mapped == 0) {
        printf("nothing was said of mappings\n");
        return 1;
    }
    return 0;
}
