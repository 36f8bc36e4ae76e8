/*
 * late_load.c: hz3 loaded late with dlopen into a process that another allocator serves. It must
 * serve those who ask it by handle, leave everybody else alone, and stay harmless when it is
 * closed. The libraries' paths are the arguments; nothing is preloaded.
 */
#include "check.h"

#include "churn.h"

struct late_library {
    void *handle;
    void *(*malloc_)(size_t);
    void *(*realloc_)(void *, size_t);
    void (*free_)(void *);
};

static struct late_library open_library(const char *path) {
    struct late_library library;
    library.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK_THAT(library.handle != NULL, "%s", dlerror());
    library.malloc_ = (void *(*)(size_t))dlsym(library.handle, "malloc");
    library.realloc_ = (void *(*)(void *, size_t))dlsym(library.handle, "realloc");
    library.free_ = (void (*)(void *))dlsym(library.handle, "free");
    CHECK(library.malloc_ != NULL && library.realloc_ != NULL && library.free_ != NULL);
    CHECK(check_any_malloc() || dlsym(library.handle, "hz3_version") != NULL);
    return library;
}

static void *use_both_allocators(void *pointer) {
    const struct late_library *library = (const struct late_library *)pointer;
    uint64_t random = 4;
    for (int i = 0; i < 2000; i++) {
        size_t size = check_random_size(&random) % 100000;
        void *theirs = library->malloc_(size), *ours = malloc(size);
        CHECK(theirs != NULL && ours != NULL);
        check_fill(theirs, size, 1);
        check_fill(ours, size, 2);
        theirs = library->realloc_(theirs, size + 100);
        CHECK(theirs != NULL);
        check_filled(theirs, size, 1);
        check_filled(ours, size, 2);
        library->free_(theirs);
        free(ours);
    }
    return NULL;
}

static void use_in_threads(struct late_library *library) {
    pthread_t threads[3];
    use_both_allocators(library);
    for (int i = 0; i < 3; i++) threads[i] = check_thread(use_both_allocators, library);
    for (int i = 0; i < 3; i++) check_join(threads[i]);
}

/* New threads, children, and the process's own allocator, with the library closed or open. */
static void go_on_with_life(void) {
    churn_start(3);
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            churn_empty_the_slots();
            exit(0);
        }
        check_child_passed(child);
    }
    churn_stop();
}

static void *wait_and_end(void *barrier) {
    pthread_barrier_wait((pthread_barrier_t *)barrier);
    pthread_barrier_wait((pthread_barrier_t *)barrier);
    return NULL;
}

struct user {
    struct late_library *library;
    pthread_barrier_t *barrier;
};

static void *use_wait_and_end(void *pointer) {
    struct user *user = (struct user *)pointer;
    use_both_allocators(user->library);
    return wait_and_end(user->barrier);
}

int main(int argc, char **argv) {
    CHECK_THAT(argc > 1, "no library was given");
    CHECK_THAT(dlsym(RTLD_DEFAULT, "hz3_version") == NULL, "hz3 is preloaded");
    void *before = malloc(5000);
    check_fill(before, 5000, 3);
    go_on_with_life();
    for (int round = 0; round < 3; round++) {
        for (int i = 1; i < argc; i++) {
            struct late_library library = open_library(argv[i]);
            use_in_threads(&library);
            go_on_with_life();
            /* One thread has used the library and ends only after it has been closed. */
            pthread_barrier_t barrier;
            CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
            struct user user = {&library, &barrier};
            pthread_t thread = check_thread(use_wait_and_end, &user);
            pthread_barrier_wait(&barrier);
            CHECK(dlclose(library.handle) == 0);
            pthread_barrier_wait(&barrier);
            check_join(thread);
            go_on_with_life();
        }
    }
    /* Both lanes in one process, each with blocks of its own. */
    struct late_library first = open_library(argv[1]), last = open_library(argv[argc - 1]);
    void *one = first.malloc_(1000), *two = last.malloc_(1000);
    check_fill(one, 1000, 1);
    check_fill(two, 1000, 2);
    use_in_threads(&first);
    use_in_threads(&last);
    check_filled(one, 1000, 1);
    check_filled(two, 1000, 2);
    check_filled(before, 5000, 3);
    first.free_(one);
    last.free_(two);
    free(before);
    return 0;
}
