/*
 * deepbind.c: libraries that are opened with RTLD_DEEPBIND. hz3's dlopen clears the flag, and leaves all else of the
 * caller's to the C library's. The path of plugin/deep_bound.c's library stands behind the case's name. The program
 * has the RUNPATH `$ORIGIN/deepbind`, a folder that is there from its start: the loader keeps in mind which are not.
 */
#include "check.h"

#define NAME "libhz3_found_by_runpath.so"

static void *(*plugin_malloc)(void);
static void (*plugin_take)(void *);
static char *(*plugin_give)(size_t);
static char *(*plugin_grow)(void *, size_t);
static char *(*plugin_copy)(const char *);

static void *opened(const char *path, int flags) {
    void *handle = dlopen(path, flags);
    CHECK_THAT(handle != NULL, "%s: %s", path, dlerror());
    plugin_malloc = (void *(*)(void))dlsym(handle, "plugin_malloc");
    plugin_take = (void (*)(void *))dlsym(handle, "plugin_take");
    plugin_give = (char *(*)(size_t))dlsym(handle, "plugin_give");
    plugin_grow = (char *(*)(void *, size_t))dlsym(handle, "plugin_grow");
    plugin_copy = (char *(*)(const char *))dlsym(handle, "plugin_copy");
    CHECK(plugin_malloc && plugin_take && plugin_give && plugin_grow && plugin_copy);
    return handle;
}

static int finds_hz3(void) { return check_library_of(plugin_malloc()) == check_library_of(check_symbol("hz3_version")); }

static void blocks_pass_to_and_from_a_deep_bound_library(void) {
    for (int scope = 0; scope < 2; scope++) {
        void *handle = opened(check_arguments[0], RTLD_NOW | RTLD_DEEPBIND | (scope ? RTLD_GLOBAL : RTLD_LOCAL));
        CHECK_THAT(finds_hz3(), "the library's malloc is another one");
        for (size_t size = 1; size < 40 * MIB; size = size * 5 + 1) {
            plugin_take(malloc(size));
            free(plugin_give(size));
            free(plugin_grow(malloc(size), size * 2));
            plugin_take(realloc(plugin_give(size), size * 2));
            free(plugin_copy("text"));
        }
        CHECK(dlclose(handle) == 0);
    }
}

/* HZ3_DEEPBIND=keep. */
static void the_flag_is_kept_on_request(void) {
    const char *option = getenv("HZ3_DEEPBIND");
    if (option == NULL || strcmp(option, "keep") != 0) check_skip("HZ3_DEEPBIND is not keep");
    opened(check_arguments[0], RTLD_NOW | RTLD_DEEPBIND);
    CHECK_THAT(!finds_hz3(), "the library's malloc is hz3's");
    plugin_take(plugin_give(100));
}

static void the_callers_paths_are_searched(void) {
    char path[PATH_MAX], folder[PATH_MAX + 16], name[PATH_MAX + 64];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    CHECK(length > 0);
    path[length] = 0;
    *strrchr(path, '/') = 0;
    snprintf(folder, sizeof folder, "%s/deepbind", path);
    snprintf(name, sizeof name, "%s/" NAME, folder);
    CHECK(symlink(check_arguments[0], name) == 0 || errno == EEXIST);
    CHECK(dlclose(opened(NAME, RTLD_NOW | RTLD_DEEPBIND)) == 0);
    CHECK(dlclose(opened("$ORIGIN/deepbind/" NAME, RTLD_NOW)) == 0);
}

static void what_is_not_there_is_refused(void) {
    CHECK(dlopen("/nowhere/at/all.so", RTLD_NOW | RTLD_DEEPBIND) == NULL);
    CHECK(strstr(dlerror(), "/nowhere/at/all.so") != NULL);
    CHECK(dlopen(check_arguments[0], RTLD_DEEPBIND) == NULL && dlerror() != NULL); /* neither RTLD_LAZY nor RTLD_NOW */
    void *program = dlopen(NULL, RTLD_LAZY);
    CHECK(program != NULL && dlclose(program) == 0);
}

static void *open_and_close(void *path) {
    for (int i = 0; i < 200; i++) {
        void *handle = dlopen(path, RTLD_LAZY | RTLD_DEEPBIND);
        CHECK(handle != NULL);
        free(((char *(*)(size_t))dlsym(handle, "plugin_give"))(100));
        CHECK(dlclose(handle) == 0);
    }
    return NULL;
}

static void threads_open_at_once(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) threads[i] = check_thread(open_and_close, check_arguments[0]);
    for (int i = 0; i < 4; i++) check_join(threads[i]);
}

CHECK_MAIN(CASE(blocks_pass_to_and_from_a_deep_bound_library), CASE(the_flag_is_kept_on_request),
           CASE(the_callers_paths_are_searched), CASE(what_is_not_there_is_refused), CASE(threads_open_at_once))
