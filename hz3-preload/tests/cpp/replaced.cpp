// replaced.cpp: some forms of operator new and delete replaced, the others the allocator's. By the standard the others
// call the replaced ones. REPLACED says which are, in the program itself; without it a preloaded library's may be.

#include "../c/check.h"

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <vector>

#ifdef REPLACED
#include "plugin/operators.cpp"
#else
#define REPLACED_PLAIN 1
#define REPLACED_ARRAY 2
#define REPLACED_ALIGNED 4
#define REPLACED_ALIGNED_ARRAY 8
namespace {
template <typename Function> Function of_library(const char *name) {
    void *symbol = dlsym(RTLD_DEFAULT, name);
    CHECK_THAT(symbol != nullptr, "%s: the library of plugin/operators.cpp is not preloaded", name);
    return reinterpret_cast<Function>(symbol);
}
// Behind hz3, the library's operators are nobody's.
int replaced_forms() {
    void *library = check_library_of(dlsym(RTLD_DEFAULT, "replaced_owns"));
    bool is_first = check_library_of(dlsym(RTLD_DEFAULT, "_Znwm")) == library;
    return is_first ? of_library<int (*)()>("replaced_forms")() : 0;
}
int replaced_owns(void *block) { return of_library<int (*)(void *)>("replaced_owns")(block); }
long replaced_live() { return of_library<long (*)()>("replaced_live")(); }
void replaced_fail(int fails) { of_library<void (*)(int)>("replaced_fail")(fails); }
} // namespace
#endif

namespace {

const auto aligned = std::align_val_t(64);
const size_t sizes[] = {1, 40, 200, 5000, 100000};

bool is_replaced(int forms) { return (replaced_forms() & forms) != 0; }

void *from(int forms, void *block, size_t size, size_t alignment) {
    CHECK(block != nullptr && check_aligned(block, alignment));
    bool own = replaced_owns(block);
    CHECK_THAT(own == is_replaced(forms), "a block of %s heap, forms %d", own ? "the replaced" : "hz3's", forms);
    memset(block, 1, size);
    return block;
}

void every_form_calls_what_was_replaced() {
    const int plain = REPLACED_PLAIN, array = REPLACED_PLAIN | REPLACED_ARRAY;
    for (size_t size : sizes) {
        ::operator delete(from(plain, ::operator new(size), size, 16));
#ifdef __cpp_sized_deallocation
        ::operator delete(from(plain, ::operator new(size), size, 16), size);
#endif
        ::operator delete(from(plain, ::operator new(size, std::nothrow), size, 16), std::nothrow);
        ::operator delete[](from(array, ::operator new[](size), size, 16));
#ifdef __cpp_sized_deallocation
        ::operator delete[](from(array, ::operator new[](size), size, 16), size);
#endif
        ::operator delete[](from(array, ::operator new[](size, std::nothrow), size, 16), std::nothrow);
        CHECK_THAT(replaced_live() == 0, "%ld replaced blocks live", replaced_live());
    }
}

void every_aligned_form_calls_what_was_replaced() {
    const int one = REPLACED_ALIGNED, array = REPLACED_ALIGNED | REPLACED_ALIGNED_ARRAY;
    for (size_t alignment : {8, 16, 64, 4096}) {
        const auto align = std::align_val_t(alignment);
        for (size_t size : sizes) {
            ::operator delete(from(one, ::operator new(size, align), size, alignment), align);
#ifdef __cpp_sized_deallocation
            ::operator delete(from(one, ::operator new(size, align), size, alignment), size, align);
#endif
            ::operator delete(from(one, ::operator new(size, align, std::nothrow), size, alignment), align, std::nothrow);
            ::operator delete[](from(array, ::operator new[](size, align), size, alignment), align);
#ifdef __cpp_sized_deallocation
            ::operator delete[](from(array, ::operator new[](size, align), size, alignment), size, align);
#endif
            ::operator delete[](from(array, ::operator new[](size, align, std::nothrow), size, alignment), align,
                                std::nothrow);
            CHECK_THAT(replaced_live() == 0, "%ld replaced blocks live", replaced_live());
        }
    }
}

template <typename Allocate>
bool throws(Allocate allocate) {
    try {
        check_opaque(allocate());
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

void what_a_replaced_form_throws_passes_or_becomes_null() {
    for (int round = 0; round < 3; round++) {
        replaced_fail(1);
        CHECK(throws([] { return ::operator new(8); }) == is_replaced(REPLACED_PLAIN));
        CHECK(throws([] { return ::operator new[](8); }) == is_replaced(REPLACED_PLAIN | REPLACED_ARRAY));
        CHECK(throws([] { return ::operator new(8, aligned); }) == is_replaced(REPLACED_ALIGNED));
        CHECK(throws([] { return ::operator new[](8, aligned); }) ==
              is_replaced(REPLACED_ALIGNED | REPLACED_ALIGNED_ARRAY));
        void *blocks[] = {::operator new(8, std::nothrow), ::operator new[](8, std::nothrow),
                          ::operator new(8, aligned, std::nothrow), ::operator new[](8, aligned, std::nothrow)};
        CHECK((blocks[0] == nullptr) == is_replaced(REPLACED_PLAIN));
        CHECK((blocks[1] == nullptr) == is_replaced(REPLACED_PLAIN | REPLACED_ARRAY));
        CHECK((blocks[2] == nullptr) == is_replaced(REPLACED_ALIGNED));
        CHECK((blocks[3] == nullptr) == is_replaced(REPLACED_ALIGNED | REPLACED_ALIGNED_ARRAY));
        replaced_fail(0);
        ::operator delete(blocks[0]);
        ::operator delete[](blocks[1]);
        ::operator delete(blocks[2], aligned);
        ::operator delete[](blocks[3], aligned);
    }
}

void what_exceeds_every_heap_is_refused_by_the_forms_left() {
    const size_t size = check_size(SIZE_MAX / 2 + 1);
    if (!is_replaced(REPLACED_PLAIN)) {
        CHECK(throws([=] { return ::operator new(size); }));
        CHECK(::operator new(size, std::nothrow) == nullptr);
    }
    if (!is_replaced(REPLACED_ALIGNED)) {
        CHECK(throws([=] { return ::operator new(size, aligned); }));
        CHECK(::operator new(size, aligned, std::nothrow) == nullptr);
    }
}

struct Counted {
    int bytes[10];
    ~Counted() { check_opaque(this); }
};
struct alignas(128) Wide {
    char bytes[256];
    ~Wide() { check_opaque(this); }
};
struct Pair {
    int key, place;
    bool operator<(const Pair &other) const { return key < other.key; }
};

void *use_the_library(void *) {
    for (int round = 0; round < 5; round++) {
        delete static_cast<Counted *>(check_opaque(new Counted));
        delete[] static_cast<Counted *>(check_opaque(new Counted[5]));
        delete static_cast<Counted *>(check_opaque(new (std::nothrow) Counted));
        delete static_cast<Wide *>(check_opaque(new Wide));
        delete[] static_cast<Wide *>(check_opaque(new (std::nothrow) Wide[3]));
        std::vector<std::string> texts;
        for (int i = 0; i < 100; i++) texts.push_back(std::string(40, 'a'));
        Pair pairs[3000];
        for (int i = 0; i < 3000; i++) pairs[i] = {i * 7919 % 977, i};
        std::stable_sort(pairs, pairs + 3000);
        auto shared = std::make_shared<Wide>();
        std::shared_ptr<Counted[]> array(new Counted[7]);
    }
    return nullptr;
}

void objects_containers_and_algorithms_find_their_heap() {
    use_the_library(nullptr);
    pthread_t threads[3];
    for (auto &thread : threads) thread = check_thread(use_the_library, nullptr);
    for (auto thread : threads) check_join(thread);
    CHECK_THAT(replaced_live() == 0, "%ld replaced blocks live", replaced_live());
}

} // namespace

CHECK_MAIN(CASE(every_form_calls_what_was_replaced), CASE(every_aligned_form_calls_what_was_replaced),
           CASE(what_a_replaced_form_throws_passes_or_becomes_null),
           CASE(what_exceeds_every_heap_is_refused_by_the_forms_left),
           CASE(objects_containers_and_algorithms_find_their_heap))
