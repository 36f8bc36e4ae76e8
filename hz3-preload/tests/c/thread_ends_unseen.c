/* Preloaded before hz3: hz3 gets no pthread key and so never learns of a thread's end. Everybody else does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

int pthread_key_create(pthread_key_t *key, void (*destructor)(void *)) {
    Dl_info caller;
    if (dladdr(__builtin_return_address(0), &caller) != 0 && strstr(caller.dli_fname, "libhakozuna_hz3") != NULL) {
        return EAGAIN;
    }
    int (*next)(pthread_key_t *, void (*)(void *));
    *(void **)&next = dlsym(RTLD_NEXT, "pthread_key_create");
    return next(key, destructor);
}
