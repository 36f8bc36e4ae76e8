/* deep_bound.c: a library that takes and gives blocks, and is opened with RTLD_DEEPBIND. */
#include <stdlib.h>
#include <string.h>

void *plugin_malloc(void) { return (void *)malloc; }
void plugin_take(void *block) { free(block); }
char *plugin_give(size_t size) { return memset(malloc(size), 1, size); }
char *plugin_grow(void *block, size_t size) { return realloc(block, size); }
char *plugin_copy(const char *text) { return strdup(text); }
