/*
 * allocating.c: a shared library that allocates in its constructor, in its own calls, in a
 * thread-specific destructor and in its destructor; libraries.c loads and unloads it.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES 100

static char *table[ENTRIES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_key_t key;

static void free_scratch(void *scratch) {
    char *copy = strdup((char *)scratch);
    free(scratch);
    free(copy);
}

__attribute__((constructor)) static void fill_the_table(void) {
    for (size_t i = 0; i < ENTRIES; i++) {
        table[i] = (char *)calloc(1, i * 50 + 1);
        if (table[i] == NULL) abort();
    }
    if (pthread_key_create(&key, free_scratch) != 0) abort();
}

__attribute__((destructor)) static void empty_the_table(void) {
    char *last = (char *)malloc(10000);
    if (last == NULL) abort();
    for (size_t i = 0; i < ENTRIES; i++) free(table[i]);
    pthread_key_delete(key);
    free(last);
}

/* Uses the table, leaves something in thread-specific data; returns a block for the caller. */
void *plugin_work(size_t size) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < ENTRIES; i++) {
        table[i] = (char *)realloc(table[i], (i * 37 + size) % 9000 + 1);
        if (table[i] == NULL) abort();
    }
    pthread_mutex_unlock(&lock);
    free(pthread_getspecific(key));
    if (pthread_setspecific(key, strdup("scratch")) != 0) abort();
    return malloc(size);
}

/* Clears what plugin_work left in the calling thread. */
void plugin_leave(void) {
    free(pthread_getspecific(key));
    pthread_setspecific(key, NULL);
}
