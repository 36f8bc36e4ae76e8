/* A search tree, growing strings and threads that free each other's nodes. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *left, *right;
    uint32_t key;
    char *text;
};

static uint32_t next_number(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void insert(struct node **at, uint32_t key)
{
    while (*at) {
        if (key == (*at)->key)
            return;
        at = key < (*at)->key ? &(*at)->left : &(*at)->right;
    }
    struct node *node = calloc(1, sizeof *node);
    node->key = key;
    node->text = malloc(key % 300 + 16);
    snprintf(node->text, key % 300 + 16, "node %u", key);
    *at = node;
}

static size_t destroy(struct node *node)
{
    if (!node)
        return 0;
    size_t length = strlen(node->text) + destroy(node->left) + destroy(node->right);
    free(node->text);
    free(node);
    return length;
}

struct job {
    uint32_t seed;
    struct node *tree;
};

static void *build(void *argument)
{
    struct job *job = argument;
    uint32_t state = job->seed;
    for (int i = 0; i < 40000; i++)
        insert(&job->tree, next_number(&state) % 100000);
    return NULL;
}

static int compare(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

int main(void)
{
    enum { THREADS = 4, LINES = 20000 };
    struct job jobs[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){ (uint32_t)i + 1, NULL };
        if (pthread_create(&threads[i], NULL, build, &jobs[i]))
            return 1;
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        printf("tree %d: %zu\n", i, destroy(jobs[i].tree));
    }

    char **lines = NULL;
    uint32_t state = 7;
    for (size_t i = 0; i < LINES; i++) {
        lines = realloc(lines, (i + 1) * sizeof *lines);
        char buffer[32];
        snprintf(buffer, sizeof buffer, "%08u", next_number(&state));
        lines[i] = strdup(buffer);
    }
    qsort(lines, LINES, sizeof *lines, compare);
    printf("lines: %s .. %s\n", lines[0], lines[LINES - 1]);
    for (size_t i = 0; i < LINES; i++)
        free(lines[i]);
    free(lines);
    return 0;
}
