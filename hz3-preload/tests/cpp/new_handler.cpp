// new_handler.cpp: what operator new does when memory is short: it calls the program's new-handler
// until there is memory, until there is no handler left, or until the handler throws.

#include "../c/check.h"

#include <sys/resource.h>

#include <new>
#include <stdexcept>

namespace {

const size_t too_much = size_t(PTRDIFF_MAX) + 1;
int calls;

void give_up_after_five_calls() {
    if (++calls == 5) std::set_new_handler(nullptr);
}

struct OwnException : std::bad_alloc {
    int number;
    explicit OwnException(int number) : number(number) {}
};

void throw_after_three_calls() {
    if (++calls == 3) throw OwnException(42);
}

void throw_something_else() {
    calls++;
    throw std::runtime_error("not a bad_alloc");
}

// Every form of operator new, by number; each throws or returns null when it fails.
enum { THROWING = 4, FORMS = 8 };
size_t alignment = 128;
void *allocate(int form, size_t size) {
    const auto aligned = std::align_val_t(alignment);
    size = check_size(size);
    switch (form) {
    case 0: return ::operator new(size);
    case 1: return ::operator new[](size);
    case 2: return ::operator new(size, aligned);
    case 3: return ::operator new[](size, aligned);
    case 4: return ::operator new(size, std::nothrow);
    case 5: return ::operator new[](size, std::nothrow);
    case 6: return ::operator new(size, aligned, std::nothrow);
    default: return ::operator new[](size, aligned, std::nothrow);
    }
}

void the_handler_is_called_until_it_removes_itself() {
    for (int form = 0; form < FORMS; form++) {
        calls = 0;
        bool thrown = false;
        std::set_new_handler(give_up_after_five_calls);
        try {
            CHECK(check_opaque(allocate(form, too_much)) == nullptr);
        } catch (const std::bad_alloc &) {
            thrown = true;
        }
        CHECK_THAT(thrown == (form < THROWING), "form %d", form);
        CHECK_THAT(calls == 5, "form %d called the handler %d times", form, calls);
        CHECK(std::get_new_handler() == nullptr);
    }
}

void the_handlers_exception_reaches_the_caller() {
    for (int form = 0; form < THROWING; form++) {
        calls = 0;
        bool thrown = false;
        std::set_new_handler(throw_after_three_calls);
        try {
            check_opaque(allocate(form, too_much));
        } catch (const OwnException &own) {
            thrown = own.number == 42;
        }
        CHECK_THAT(thrown && calls == 3, "form %d", form);
        calls = 0;
        thrown = false;
        std::set_new_handler(throw_something_else);
        try {
            check_opaque(allocate(form, too_much));
        } catch (const std::runtime_error &) {
            thrown = true;
        }
        CHECK_THAT(thrown && calls == 1, "form %d", form);
    }
    std::set_new_handler(nullptr);
}

void a_handler_that_throws_makes_the_nothrow_forms_return_null() {
    for (int form = THROWING; form < FORMS; form++) {
        calls = 0;
        std::set_new_handler(throw_after_three_calls);
        CHECK_THAT(check_opaque(allocate(form, too_much)) == nullptr, "form %d", form);
        CHECK_THAT(calls == 3, "form %d called the handler %d times", form, calls);
    }
    std::set_new_handler(nullptr);
}

void without_a_handler_bad_alloc_is_thrown_at_once() {
    std::set_new_handler(nullptr);
    for (int form = 0; form < THROWING; form++) {
        bool thrown = false;
        try {
            check_opaque(allocate(form, too_much));
        } catch (const std::bad_alloc &error) {
            thrown = dynamic_cast<const OwnException *>(&error) == nullptr;
        }
        CHECK_THAT(thrown, "form %d", form);
    }
}

void malloc_never_calls_the_handler() {
    calls = 0;
    std::set_new_handler(give_up_after_five_calls);
    CHECK(malloc(check_size(too_much)) == nullptr);
    CHECK(calloc(check_size(too_much), 2) == nullptr);
    CHECK(aligned_alloc(64, check_size(too_much)) == nullptr);
    CHECK(calls == 0);
    std::set_new_handler(nullptr);
}

// More than any allocator reserves ahead, in blocks that are never written.
const size_t block_size = 64 * MIB;
void *hoard[256 * GIB / block_size];
size_t hoarded;

void free_one_block() {
    calls++;
    CHECK(hoarded > 0);
    ::operator delete(hoard[--hoarded]);
}

void hoard_all() {
    struct rlimit limit = {check_status("VmSize:") + GIB, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    for (;;) {
        CHECK(hoarded < sizeof hoard / sizeof hoard[0]);
        void *block = ::operator new(block_size, std::nothrow);
        if (block == nullptr) break;
        hoard[hoarded++] = block;
    }
}

void a_handler_that_frees_memory_makes_the_request_succeed() {
    hoard_all();
    std::set_new_handler(free_one_block);
    for (int form = 0; form < FORMS; form++) {
        calls = 0;
        void *block = allocate(form, form % 4 < 2 ? block_size : block_size / 2);
        CHECK_THAT(block != nullptr, "form %d", form);
        CHECK_THAT(form > 0 || calls > 0, "the handler was not called");
        hoard[hoarded++] = block;
        if (form % 4 >= 2) free_one_block();
    }
    std::set_new_handler(nullptr);
    while (hoarded > 0) free_one_block();
}

// An alignment that the plain form would give as well does not make a plain form of it.
void aligned_forms_of_small_alignments_succeed_after_the_handler() {
    hoard_all();
    std::set_new_handler(free_one_block);
    for (alignment = 1; alignment <= 16; alignment *= 2) {
        for (int form = 2; form < FORMS; form += form == 3 ? 3 : 1) {
            calls = 0;
            void *block = allocate(form, block_size);
            CHECK_THAT(block != nullptr && calls > 0, "form %d, %zu: %p, %d calls", form, alignment, block, calls);
            hoard[hoarded++] = block;
        }
    }
    std::set_new_handler(nullptr);
    while (hoarded > 0) free_one_block();
}

void *fail_in_a_thread(void *) {
    for (int i = 0; i < 200; i++) {
        bool thrown = false;
        try {
            check_opaque(allocate(i % THROWING, too_much));
        } catch (const std::runtime_error &) {
            thrown = true;
        }
        CHECK(thrown);
        free(malloc(100));
    }
    return nullptr;
}

void throw_without_counting() { throw std::runtime_error("no memory"); }

void threads_call_the_handler_at_once() {
    pthread_t threads[4];
    std::set_new_handler(throw_without_counting);
    for (auto &thread : threads) thread = check_thread(fail_in_a_thread, nullptr);
    for (auto thread : threads) check_join(thread);
    std::set_new_handler(nullptr);
}

} // namespace

CHECK_MAIN(CASE(the_handler_is_called_until_it_removes_itself),
           CASE(the_handlers_exception_reaches_the_caller),
           CASE(a_handler_that_throws_makes_the_nothrow_forms_return_null),
           CASE(without_a_handler_bad_alloc_is_thrown_at_once),
           CASE(malloc_never_calls_the_handler),
           CASE(a_handler_that_frees_memory_makes_the_request_succeed),
           CASE(aligned_forms_of_small_alignments_succeed_after_the_handler),
           CASE(threads_call_the_handler_at_once))
