// operators.cpp: operator new and delete in all their forms: plain, array, nothrow, aligned, sized.

#include "../c/check.h"

#include <new>

namespace {

const size_t sizes[] = {0, 1, 8, 15, 16, 17, 100, 1000, 5000, 40000, 300000, 3 * MIB};
const size_t impossible[] = {SIZE_MAX, SIZE_MAX - 15, size_t(PTRDIFF_MAX) + 1, PTRDIFF_MAX,
                             size_t(1) << 47};

void use(void *block, size_t size, size_t alignment) {
    CHECK_THAT(block != nullptr && check_aligned(block, alignment), "%zu bytes aligned to %zu: %p",
               size, alignment, block);
    check_fill(block, size, alignment);
    check_filled(block, size, alignment);
}

// Every name that a program can call must be hz3's, or two allocators mix.
void every_operator_comes_from_the_preloaded_library() {
    const char *const names[] = {
        "_Znwm",  "_ZnwmRKSt9nothrow_t", "_ZnwmSt11align_val_t",
        "_ZnwmSt11align_val_tRKSt9nothrow_t",
        "_Znam",  "_ZnamRKSt9nothrow_t", "_ZnamSt11align_val_t",
        "_ZnamSt11align_val_tRKSt9nothrow_t",
        "_ZdlPv", "_ZdlPvm", "_ZdlPvRKSt9nothrow_t", "_ZdlPvSt11align_val_t",
        "_ZdlPvmSt11align_val_t", "_ZdlPvSt11align_val_tRKSt9nothrow_t",
        "_ZdaPv", "_ZdaPvm", "_ZdaPvRKSt9nothrow_t", "_ZdaPvSt11align_val_t",
        "_ZdaPvmSt11align_val_t", "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    };
    for (const char *name : names) check_symbol(name);
}

void plain_forms_pair_with_every_delete() {
    for (size_t size : sizes) {
        void *block;
        use(block = ::operator new(size), size, 16);
        ::operator delete(block);
        use(block = ::operator new(size), size, 16);
        ::operator delete(block, size);
        use(block = ::operator new(size), size, 16);
        ::operator delete(block, std::nothrow);
        use(block = ::operator new(size, std::nothrow), size, 16);
        ::operator delete(block);
        use(block = ::operator new(size, std::nothrow), size, 16);
        ::operator delete(block, size);
        use(block = ::operator new(size, std::nothrow), size, 16);
        ::operator delete(block, std::nothrow);
    }
}

void array_forms_pair_with_every_delete() {
    for (size_t size : sizes) {
        void *block;
        use(block = ::operator new[](size), size, 16);
        ::operator delete[](block);
        use(block = ::operator new[](size), size, 16);
        ::operator delete[](block, size);
        use(block = ::operator new[](size), size, 16);
        ::operator delete[](block, std::nothrow);
        use(block = ::operator new[](size, std::nothrow), size, 16);
        ::operator delete[](block);
        use(block = ::operator new[](size, std::nothrow), size, 16);
        ::operator delete[](block, size);
        use(block = ::operator new[](size, std::nothrow), size, 16);
        ::operator delete[](block, std::nothrow);
    }
}

void aligned_forms_pair_with_every_delete() {
    for (size_t alignment = 8; alignment <= 4 * MIB; alignment *= 2) {
        const auto aligned = std::align_val_t(alignment);
        for (size_t size : sizes) {
            void *block;
            use(block = ::operator new(size, aligned), size, alignment);
            ::operator delete(block, aligned);
            use(block = ::operator new(size, aligned), size, alignment);
            ::operator delete(block, size, aligned);
            use(block = ::operator new(size, aligned), size, alignment);
            ::operator delete(block, aligned, std::nothrow);
            use(block = ::operator new(size, aligned, std::nothrow), size, alignment);
            ::operator delete(block, aligned);
            use(block = ::operator new[](size, aligned), size, alignment);
            ::operator delete[](block, aligned);
            use(block = ::operator new[](size, aligned), size, alignment);
            ::operator delete[](block, size, aligned);
            use(block = ::operator new[](size, aligned), size, alignment);
            ::operator delete[](block, aligned, std::nothrow);
            use(block = ::operator new[](size, aligned, std::nothrow), size, alignment);
            ::operator delete[](block, aligned);
        }
    }
}

void new_of_nothing_returns_distinct_blocks() {
    void *blocks[400];
    for (int i = 0; i < 400; i++) {
        blocks[i] = i % 2 ? ::operator new(check_size(0)) : ::operator new[](check_size(0));
        for (int j = 0; j < i; j++) CHECK(blocks[i] != blocks[j]);
    }
    for (int i = 0; i < 400; i++) {
        if (i % 2)
            ::operator delete(blocks[i]);
        else
            ::operator delete[](blocks[i]);
    }
}

template <typename Allocate>
void throws_bad_alloc(Allocate allocate) {
    for (size_t size : impossible) {
        bool caught = false;
        try {
            void *block = check_opaque(allocate(check_size(size)));
            check_fail(__FILE__, __LINE__, "%zu bytes at %p", size, block);
        } catch (const std::bad_alloc &error) {
            caught = true;
            CHECK(error.what() != nullptr);
        }
        CHECK(caught);
    }
}

void throwing_forms_throw_bad_alloc() {
    throws_bad_alloc([](size_t size) { return ::operator new(size); });
    throws_bad_alloc([](size_t size) { return ::operator new[](size); });
    for (size_t alignment = 8; alignment <= MIB; alignment *= 4) {
        const auto aligned = std::align_val_t(alignment);
        throws_bad_alloc([=](size_t size) { return ::operator new(size, aligned); });
        throws_bad_alloc([=](size_t size) { return ::operator new[](size, aligned); });
    }
    throws_bad_alloc([](size_t size) { return new char[size]; });
    throws_bad_alloc([](size_t size) { return new double[size / sizeof(double)]; });
}

void nothrow_forms_return_null() {
    for (size_t size : impossible) {
        size = check_size(size);
        CHECK(check_opaque(::operator new(size, std::nothrow)) == nullptr);
        CHECK(check_opaque(::operator new[](size, std::nothrow)) == nullptr);
        const auto aligned = std::align_val_t(256);
        CHECK(check_opaque(::operator new(size, aligned, std::nothrow)) == nullptr);
        CHECK(check_opaque(::operator new[](size, aligned, std::nothrow)) == nullptr);
        CHECK(check_opaque(new (std::nothrow) char[size]) == nullptr);
    }
}

void delete_of_null_does_nothing() {
    const auto null = [] { return check_opaque(nullptr); };
    const auto aligned = std::align_val_t(64);
    ::operator delete(null());
    ::operator delete(null(), size_t(100));
    ::operator delete(null(), std::nothrow);
    ::operator delete(null(), aligned);
    ::operator delete(null(), size_t(100), aligned);
    ::operator delete(null(), aligned, std::nothrow);
    ::operator delete[](null());
    ::operator delete[](null(), size_t(100));
    ::operator delete[](null(), std::nothrow);
    ::operator delete[](null(), aligned);
    ::operator delete[](null(), size_t(100), aligned);
    ::operator delete[](null(), aligned, std::nothrow);
}

struct alignas(64) CacheLine {
    char bytes[64];
};
struct alignas(4096) Page {
    char bytes[4096];
};

template <typename T>
void allocate_objects() {
    T *objects[200], *arrays[50];
    for (auto &object : objects) {
        object = new T;
        use(object, sizeof(T), alignof(T));
    }
    for (auto &array : arrays) {
        array = new T[5];
        use(array, 5 * sizeof(T), alignof(T));
    }
    for (auto *object : objects) delete object;
    for (auto *array : arrays) delete[] array;
}

void over_aligned_types_are_aligned() {
    allocate_objects<CacheLine>();
    allocate_objects<Page>();
    allocate_objects<long double>();
}

} // namespace

CHECK_MAIN(CASE(every_operator_comes_from_the_preloaded_library),
           CASE(plain_forms_pair_with_every_delete),
           CASE(array_forms_pair_with_every_delete),
           CASE(aligned_forms_pair_with_every_delete),
           CASE(new_of_nothing_returns_distinct_blocks),
           CASE(throwing_forms_throw_bad_alloc),
           CASE(nothrow_forms_return_null),
           CASE(delete_of_null_does_nothing),
           CASE(over_aligned_types_are_aligned))
