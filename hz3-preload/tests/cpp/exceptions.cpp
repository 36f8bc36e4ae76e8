// exceptions.cpp: exceptions that cross frames which own memory: every destructor runs, every block
// goes back, and the exception objects themselves are allocated and freed.

#include "../c/check.h"

#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

int alive;

// Owns a block and counts the living.
class Owner {
public:
    explicit Owner(size_t size) : size_(size), block_(static_cast<char *>(::operator new(size))) {
        check_fill(block_, size_, size_);
        alive++;
    }
    ~Owner() {
        check_filled(block_, size_, size_);
        ::operator delete(block_);
        alive--;
    }
    Owner(const Owner &) = delete;
    Owner &operator=(const Owner &) = delete;

private:
    size_t size_;
    char *block_;
};

void *descend(int depth, size_t last_request) {
    Owner first(static_cast<size_t>(depth) * 100 + 1), second(50000);
    if (depth == 0) return check_opaque(::operator new(check_size(last_request)));
    void *block = descend(depth - 1, last_request);
    CHECK(alive > 0);
    return block;
}

void bad_alloc_unwinds_through_frames_that_own_memory() {
    for (int round = 0; round < 100; round++) {
        bool caught = false;
        try {
            descend(30, SIZE_MAX);
        } catch (const std::bad_alloc &) {
            caught = true;
        }
        CHECK(caught);
        CHECK_THAT(alive == 0, "%d owners were not destroyed", alive);
        void *block = descend(30, 100);
        CHECK(block != nullptr && alive == 0);
        ::operator delete(block);
    }
}

struct Throwing {
    Owner first{1000};
    char payload[500];
    Throwing() { throw std::runtime_error("in a constructor"); }
};

struct ThrowingThird {
    static int made;
    Owner owner{300};
    ThrowingThird() {
        if (++made == 3) throw std::runtime_error("in the third constructor");
    }
};
int ThrowingThird::made;

struct alignas(256) ThrowingAligned {
    ThrowingAligned() { throw std::runtime_error("in an aligned constructor"); }
};

// The compiler hands the memory back through operator delete when a constructor throws.
void a_constructor_that_throws_gives_its_memory_back() {
    size_t before = check_status("VmRSS:");
    for (int round = 0; round < 20000; round++) {
        int caught = 0;
        try {
            delete new Throwing;
        } catch (const std::runtime_error &) {
            caught++;
        }
        try {
            delete new ThrowingAligned;
        } catch (const std::runtime_error &) {
            caught++;
        }
        try {
            delete new (std::nothrow) Throwing;
        } catch (const std::runtime_error &) {
            caught++;
        }
        ThrowingThird::made = 0;
        try {
            delete[] new ThrowingThird[10];
        } catch (const std::runtime_error &) {
            caught++;
        }
        CHECK(caught == 4 && alive == 0);
    }
    size_t after = check_status("VmRSS:");
    CHECK_THAT(after < before + 16 * MIB, "resident memory went from %zu to %zu bytes", before,
               after);
}

void containers_survive_a_failed_request() {
    std::vector<std::string> strings;
    for (int i = 0; i < 1000; i++) strings.push_back(std::string(static_cast<size_t>(i), 'x'));
    int caught = 0;
    try {
        std::vector<char> large(check_size(PTRDIFF_MAX));
        check_opaque(large.data());
    } catch (const std::bad_alloc &) {
        caught++;
    }
    try {
        strings.reserve(check_size(strings.max_size()));
    } catch (const std::bad_alloc &) {
        caught++;
    }
    try {
        std::string long_string(check_size(size_t(1) << 60), 'x');
        check_opaque(&long_string[0]);
    } catch (const std::bad_alloc &) {
        caught++;
    }
    CHECK(caught == 3);
    for (size_t i = 0; i < strings.size(); i++) CHECK(strings[i] == std::string(i, 'x'));
}

// Thrown, kept and rethrown: the exception object is allocated in one thread and freed in another.
void exceptions_travel_between_threads() {
    for (int round = 0; round < 200; round++) {
        std::exception_ptr carried;
        std::thread thread([&carried, round] {
            try {
                throw std::runtime_error(std::string(static_cast<size_t>(round) * 10, 'e'));
            } catch (...) {
                carried = std::current_exception();
            }
        });
        thread.join();
        bool caught = false;
        try {
            std::rethrow_exception(carried);
        } catch (const std::runtime_error &error) {
            caught = strlen(error.what()) == static_cast<size_t>(round) * 10;
        }
        CHECK(caught);
    }
}

void threads_throw_at_once() {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([] {
            for (int round = 0; round < 2000; round++) {
                bool caught = false;
                std::unique_ptr<std::string> owned(new std::string(200, 'o'));
                try {
                    check_opaque(::operator new(check_size(SIZE_MAX)));
                } catch (const std::bad_alloc &) {
                    caught = true;
                }
                CHECK(caught && owned->size() == 200);
            }
        });
    }
    for (auto &thread : threads) thread.join();
}

} // namespace

CHECK_MAIN(CASE(bad_alloc_unwinds_through_frames_that_own_memory),
           CASE(a_constructor_that_throws_gives_its_memory_back),
           CASE(containers_survive_a_failed_request),
           CASE(exceptions_travel_between_threads),
           CASE(threads_throw_at_once))
