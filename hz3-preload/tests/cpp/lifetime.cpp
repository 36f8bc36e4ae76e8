// lifetime.cpp: objects that allocate at the edges of life: static ones before and after main,
// thread_local ones at the start and the end of each thread.

#include "../c/check.h"

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

std::atomic<int> alive{0};

// Builds a map of strings; takes and frees more in its destructor.
class Registry {
public:
    explicit Registry(int entries) : entries_(entries) {
        for (int i = 0; i < entries; i++)
            map_[i] = std::string(static_cast<size_t>(i) * 7 % 500, 'r');
        alive++;
    }
    ~Registry() {
        check();
        std::vector<std::string> copies;
        for (auto &entry : map_) copies.push_back(entry.second + "copied at the end");
        CHECK(copies.size() == static_cast<size_t>(entries_));
        map_.clear();
        alive--;
    }
    Registry(const Registry &) = delete;
    Registry &operator=(const Registry &) = delete;

    void check() const {
        CHECK(map_.size() == static_cast<size_t>(entries_));
        for (auto &entry : map_)
            CHECK(entry.second == std::string(static_cast<size_t>(entry.first) * 7 % 500, 'r'));
    }
    void grow() {
        for (int i = entries_; i < entries_ + 50; i++)
            map_[i] = std::string(static_cast<size_t>(i) * 7 % 500, 'r');
        entries_ += 50;
    }

private:
    int entries_;
    std::map<int, std::string> map_;
};

Registry before_main(300);
Registry early __attribute__((init_priority(101)))(200);
std::unique_ptr<std::thread> joined_at_exit;

// Destroyed after the statics above that were made later; ends the process badly if any is missing.
struct LastWitness {
    ~LastWitness() {
        if (joined_at_exit) joined_at_exit->join();
    }
} last_witness;

Registry &function_static() {
    static Registry registry(100);
    return registry;
}

thread_local Registry per_thread(40);
thread_local std::unique_ptr<Registry> on_demand;

void static_objects_allocate_before_and_after_main() {
    before_main.check();
    early.check();
    before_main.grow();
    function_static().grow();
    function_static().check();
    joined_at_exit.reset(new std::thread([] {
        Registry local(1000);
        local.grow();
    }));
}

void touch_thread_locals() {
    per_thread.grow();
    per_thread.check();
    if (!on_demand) on_demand.reset(new Registry(20));
    on_demand->grow();
}

void thread_locals_allocate_at_the_start_and_the_end_of_a_thread() {
    int before = alive;
    for (int round = 0; round < 200; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; i++) threads.emplace_back(touch_thread_locals);
        for (auto &thread : threads) thread.join();
        CHECK_THAT(alive == before, "%d thread-local objects were not destroyed", alive - before);
    }
}

// A thread_local that is made while another one is being destroyed.
struct MakesAnother {
    ~MakesAnother() {
        touch_thread_locals();
        free(malloc(1000));
    }
    char *block = new char[100];
};
thread_local MakesAnother makes_another;

void a_thread_local_destructor_makes_another_thread_local() {
    for (int round = 0; round < 300; round++) {
        std::thread thread([] {
            makes_another.block[0] = 1;
            delete[] makes_another.block;
        });
        thread.join();
    }
}

std::atomic<bool> started{false};

void detached_threads_own_thread_locals_when_main_returns() {
    for (int i = 0; i < 3; i++) {
        std::thread([] {
            for (;;) {
                std::thread(touch_thread_locals).join();
                started = true;
            }
        }).detach();
    }
    while (!started) usleep(100);
}

} // namespace

CHECK_MAIN(CASE(static_objects_allocate_before_and_after_main),
           CASE(thread_locals_allocate_at_the_start_and_the_end_of_a_thread),
           CASE(a_thread_local_destructor_makes_another_thread_local),
           CASE(detached_threads_own_thread_locals_when_main_returns))
