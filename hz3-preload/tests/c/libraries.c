/*
 * libraries.c: shared libraries that allocate while they are loaded, used and unloaded. The path
 * of plugin/allocating.c's library stands behind the case's name.
 */
#include "check.h"

#include "churn.h"

typedef void *(*work_function)(size_t);
typedef void (*leave_function)(void);

struct plugin {
    void *handle;
    work_function work;
    leave_function leave;
};

static struct plugin load(void) {
    struct plugin plugin;
    CHECK_THAT(check_arguments[0] != NULL, "the plugin's path is missing");
    plugin.handle = dlopen(check_arguments[0], RTLD_NOW | RTLD_LOCAL);
    CHECK_THAT(plugin.handle != NULL, "%s", dlerror());
    plugin.work = (work_function)dlsym(plugin.handle, "plugin_work");
    plugin.leave = (leave_function)dlsym(plugin.handle, "plugin_leave");
    CHECK(plugin.work != NULL && plugin.leave != NULL);
    return plugin;
}

static void *work_in_a_thread(void *pointer) {
    const struct plugin *plugin = (const struct plugin *)pointer;
    void *block = NULL;
    for (size_t size = 1; size < 100000; size *= 3) {
        free(block);
        block = plugin->work(size);
        CHECK(block != NULL);
        memset(block, 1, size);
    }
    return block;
}

static void libraries_that_allocate_come_and_go(void) {
    size_t before = 0;
    for (int round = 0; round < 300; round++) {
        if (round == 50) before = check_status("VmRSS:");
        struct plugin plugin = load();
        void *block = plugin.work(1000);
        CHECK(block != NULL);
        check_fill(block, 1000, (uint64_t)round);
        plugin.leave();
        CHECK(dlclose(plugin.handle) == 0);
        check_filled(block, 1000, (uint64_t)round);
        free(block);
    }
    size_t after = check_status("VmRSS:");
    CHECK_THAT(after < before + 8 * MIB, "resident memory went from %zu to %zu bytes", before,
               after);
}

static void libraries_come_and_go_while_threads_allocate(void) {
    churn_start(3);
    for (int round = 0; round < 100; round++) {
        struct plugin plugin = load();
        void *blocks[2];
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) threads[i] = check_thread(work_in_a_thread, &plugin);
        for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], &blocks[i]) == 0);
        CHECK(dlclose(plugin.handle) == 0);
        for (int i = 0; i < 2; i++) free(blocks[i]);
    }
    churn_stop();
}

static void a_missing_library_is_refused(void) {
    for (int round = 0; round < 100; round++) {
        CHECK(dlopen("/nonexistent/library.so", RTLD_NOW) == NULL);
        const char *text = dlerror();
        CHECK(text != NULL && strstr(text, "nonexistent") != NULL);
        CHECK(dlsym(RTLD_DEFAULT, "no_such_symbol_anywhere") == NULL);
        CHECK(dlerror() != NULL);
    }
}

CHECK_MAIN(CASE(libraries_that_allocate_come_and_go),
           CASE(libraries_come_and_go_while_threads_allocate),
           CASE(a_missing_library_is_refused))
