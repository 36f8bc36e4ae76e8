/*
 * plug_ins.c: plug-ins with an hz3 of their own (hz3-core/tests/plug_in) are closed while what they left with the C
 * library and the kernel lives on. `PROGRAM CASE PATH…`, with the plug-ins' paths.
 */
#include "check.h"


#define THREADS 4
#define PLUG_INS 8

struct plug_in {
    const char *path;
    void *handle;
    uint32_t (*answer)(void);
    uint32_t (*work)(uint32_t);
    void (*start_background_thread)(void);
};

static struct plug_in open_plug_in(const char *path) {
    struct plug_in plug_in = {.path = path, .handle = dlopen(path, RTLD_NOW | RTLD_LOCAL)};
    CHECK_THAT(plug_in.handle != NULL, "%s", dlerror());
    plug_in.answer = (uint32_t (*)(void))dlsym(plug_in.handle, "plug_in_answer");
    plug_in.work = (uint32_t (*)(uint32_t))dlsym(plug_in.handle, "plug_in_work");
    plug_in.start_background_thread = (void (*)(void))dlsym(plug_in.handle, "plug_in_start_background_thread");
    CHECK(plug_in.answer != NULL && plug_in.work != NULL && plug_in.start_background_thread != NULL);
    return plug_in;
}

static void close_plug_in(struct plug_in *plug_in) { CHECK(dlclose(plug_in->handle) == 0); }

static int is_mapped(const char *path) {
    char line[4096];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) found |= strstr(line, path) != NULL;
    fclose(maps);
    return found;
}

static char **paths(void) {
    CHECK_THAT(check_arguments[0] != NULL, "no plug-in was given");
    return check_arguments;
}

/* An unused plug-in leaves nothing behind that would keep it. */
static void an_unused_plug_in_is_unloaded(void) {
    for (char **path = paths(); *path != NULL; path++) {
        for (int round = 0; round < 3; round++) {
            struct plug_in plug_in = open_plug_in(*path);
            CHECK(plug_in.answer() == 42);
            /* Not asked for by the options: reads them, and starts none. */
            if (getenv("HZ3_BACKGROUND_THREAD") == NULL) plug_in.start_background_thread();
            CHECK_THAT(is_mapped(*path), "%s is not mapped while it is open", *path);
            close_plug_in(&plug_in);
            CHECK_THAT(!is_mapped(*path), "%s is still mapped", *path);
        }
    }
}

static struct plug_in opened[PLUG_INS];
static int opened_count;
static pthread_barrier_t barrier;

static void *use_all_and_live_on(void *seed) {
    for (int i = 0; i < opened_count; i++) CHECK(opened[i].work((uint32_t)(uintptr_t)seed) != 0);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return NULL;
}

static void open_all(void) {
    opened_count = 0;
    for (char **path = paths(); *path != NULL; path++) {
        CHECK(opened_count < PLUG_INS);
        opened[opened_count++] = open_plug_in(*path);
    }
}

static void close_all(void) {
    for (int i = 0; i < opened_count; i++) close_plug_in(&opened[i]);
}

/* Threads that used the plug-ins end after these were closed; so does a child of theirs, and the plug-ins are opened
 * and used again. */
static void threads_outlive_the_plug_ins(void) {
    for (int round = 0; round < 3; round++) {
        pthread_t threads[THREADS];
        CHECK(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
        open_all();
        for (uintptr_t i = 0; i < THREADS; i++) threads[i] = check_thread(use_all_and_live_on, (void *)(i + 1));
        pthread_barrier_wait(&barrier);
        close_all();
        pid_t child = fork();
        if (child == 0) _exit(0);
        check_child_passed(child);
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < THREADS; i++) check_join(threads[i]);
        CHECK(pthread_barrier_destroy(&barrier) == 0);
    }
}

static int background_threads(void) { return check_threads_called("hz3-background", NULL); }

static void wait_for_background_threads(int count) {
    for (int tries = 0; background_threads() < count; usleep(10000))
        CHECK_THAT(tries++ < 3000, "%d background threads, %d expected", background_threads(), count);
}

/* HZ3_BACKGROUND_THREAD=1 HZ3_PURGE_DELAY_MS=100, so that each thread's pauses have about 20 ms. A child's are its own. */
static void background_threads_outlive_the_plug_ins(void) {
    int others = dlsym(RTLD_DEFAULT, "hz3_version") != NULL; /* a preloaded hz3's own */
    open_all();
    for (int i = 0; i < opened_count; i++) opened[i].start_background_thread();
    wait_for_background_threads(others + opened_count);
    close_all();
    usleep(300000);
    CHECK(background_threads() == others + opened_count);
    open_all();
    for (int i = 0; i < opened_count; i++) CHECK(opened[i].work(7) != 0);
    close_all();
    pid_t child = fork();
    if (child == 0) {
        wait_for_background_threads(others + opened_count);
        usleep(100000);
        _exit(0);
    }
    check_child_passed(child);
}

/* Run by name alone: each needs plug-ins, and some need options. Whose `malloc` serves the host is the caller's choice. */
int main(int argc, char **argv) {
    static const struct check_case cases[] = {CASE(an_unused_plug_in_is_unloaded), CASE(threads_outlive_the_plug_ins),
                                              CASE(background_threads_outlive_the_plug_ins)};
    CHECK_THAT(argc > 1, "no case was given");
    check_arguments = argv + 2;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (strcmp(argv[1], cases[i].name) != 0) continue;
        cases[i].run();
        return 0;
    }
    check_fail(__FILE__, __LINE__, "there is no case %s", argv[1]);
}
