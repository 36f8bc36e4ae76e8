// every_form.cpp: takes and gives back a block by every function and operator that allocates, in two threads, for tools
// that put an allocator of their own in the place of those that they know.
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

template <typename Function> static Function named(const char *name) {
    void *symbol = dlsym(RTLD_DEFAULT, name);
    if (symbol == nullptr) {
        fprintf(stderr, "there is no %s\n", name);
        exit(2);
    }
    return reinterpret_cast<Function>(symbol);
}

static void *used(void *block, size_t bytes) {
    if (block == nullptr) exit(3);
    return memset(block, 1, bytes);
}

struct alignas(128) Wide {
    char bytes[256];
};
struct Base {
    virtual ~Base() {}
    char bytes[100];
};

static void c_functions() {
    const auto cfree_ = named<void (*)(void *)>("cfree");
    const auto free_sized_ = named<void (*)(void *, size_t)>("free_sized");
    const auto free_aligned_sized_ = named<void (*)(void *, size_t, size_t)>("free_aligned_sized");
    for (size_t bytes : {size_t(1), size_t(100), size_t(5000), size_t(300000)}) {
        free(used(malloc(bytes), bytes));
        free(used(calloc(2, bytes), 2 * bytes));
        free(used(realloc(malloc(bytes), 2 * bytes), 2 * bytes));
        free(used(reallocarray(nullptr, 2, bytes), 2 * bytes));
        free(used(reallocarray(malloc(bytes), 2, bytes), 2 * bytes));
        free(used(memalign(64, bytes), bytes));
        free(used(aligned_alloc(64, bytes / 64 * 64 + 64), bytes));
        free(used(valloc(bytes), bytes));
        free(used(pvalloc(bytes), bytes));
        void *block = nullptr;
        if (posix_memalign(&block, 64, bytes) != 0) exit(3);
        if (malloc_usable_size(block) < bytes) exit(4);
        free(used(block, bytes));
        cfree_(malloc(bytes));
        free_sized_(malloc(bytes), bytes);
        free_aligned_sized_(aligned_alloc(64, 640), 64, 640);
        free(strdup("text"));
    }
}

static void operators() {
    const auto align = std::align_val_t(128);
    for (size_t bytes : {size_t(1), size_t(100), size_t(5000)}) {
        ::operator delete(used(::operator new(bytes), bytes));
        ::operator delete(used(::operator new(bytes), bytes), bytes);
        ::operator delete(used(::operator new(bytes, std::nothrow), bytes), std::nothrow);
        ::operator delete[](used(::operator new[](bytes), bytes));
        ::operator delete[](used(::operator new[](bytes), bytes), bytes);
        ::operator delete[](used(::operator new[](bytes, std::nothrow), bytes), std::nothrow);
        ::operator delete(used(::operator new(bytes, align), bytes), align);
        ::operator delete(used(::operator new(bytes, align), bytes), bytes, align);
        ::operator delete(used(::operator new(bytes, align, std::nothrow), bytes), align, std::nothrow);
        ::operator delete[](used(::operator new[](bytes, align), bytes), align);
        ::operator delete[](used(::operator new[](bytes, align), bytes), bytes, align);
        ::operator delete[](used(::operator new[](bytes, align, std::nothrow), bytes), align, std::nothrow);
    }
    delete static_cast<Wide *>(used(new Wide, sizeof(Wide)));
    delete[] static_cast<Wide *>(used(new Wide[3], 3 * sizeof(Wide)));
    delete new Base;
    delete[] new Base[3];
}

static void *all(void *) {
    c_functions();
    operators();
    return nullptr;
}

int main() {
    free(valloc(1)); // valgrind's own reads the size of a page at its first call, without a lock
    pthread_t thread;
    if (pthread_create(&thread, nullptr, all, nullptr) != 0) return 5;
    all(nullptr);
    pthread_join(thread, nullptr);
    malloc_trim(0);
    puts("every form passed");
    return 0;
}
