// containers.cpp: the standard library's containers at work in several threads, and handed from
// one to another.

#include "../c/check.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

const int THREADS = 4;

template <typename Work>
void in_threads(Work work) {
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; i++) threads.emplace_back(work, i);
    for (auto &thread : threads) thread.join();
}

void threads_fill_containers_of_every_kind() {
    in_threads([](int thread) {
        std::map<std::string, int> map;
        std::unordered_map<int, std::string> hashed;
        std::list<std::vector<int>> list;
        std::deque<double> deque;
        std::set<std::string> set;
        for (int i = 0; i < 20000; i++) {
            map["key " + std::to_string(i % 3000 + thread)] += i;
            hashed[i % 5000].append("abc");
            list.emplace_back(static_cast<size_t>(i % 40), i);
            if (list.size() > 200) list.pop_front();
            deque.push_back(i);
            if (deque.size() > 1000) deque.pop_front();
            set.insert(std::string(static_cast<size_t>(i % 100), 's'));
        }
        CHECK(map.size() == 3000 && hashed.size() == 5000 && list.size() == 200);
        CHECK(deque.size() == 1000 && deque.back() == 19999 && set.size() == 100);
        for (auto &entry : hashed) CHECK(entry.second.size() == 12);
        for (auto &vector : list)
            for (int value : vector) CHECK(value % 40 == static_cast<int>(vector.size()));
    });
}

void threads_sort_and_format() {
    in_threads([](int thread) {
        uint64_t random = static_cast<uint64_t>(thread);
        for (int round = 0; round < 5; round++) {
            std::vector<std::string> words;
            for (int i = 0; i < 10000; i++) {
                std::ostringstream stream;
                stream << check_random(&random) % 100000 << ' ' << i;
                words.push_back(stream.str());
            }
            std::stable_sort(words.begin(), words.end());
            CHECK(std::is_sorted(words.begin(), words.end()) && words.size() == 10000);
        }
    });
}

// A queue of strings on which every thread both sends and receives.
void messages_pass_between_threads() {
    const int MESSAGES = 20000;
    std::mutex mutex;
    std::condition_variable filled;
    std::deque<std::unique_ptr<std::string>> queue;
    in_threads([&](int thread) {
        for (int i = 0; i < MESSAGES; i++) {
            std::unique_ptr<std::string> sent(
                new std::string(static_cast<size_t>(i % 700), static_cast<char>('a' + thread)));
            std::unique_ptr<std::string> received;
            std::unique_lock<std::mutex> lock(mutex);
            queue.push_back(std::move(sent));
            filled.notify_one();
            filled.wait(lock, [&] { return !queue.empty(); });
            received = std::move(queue.front());
            queue.pop_front();
            lock.unlock();
            for (char letter : *received) CHECK(letter == received->front());
        }
    });
    CHECK(queue.empty());
}

void futures_bring_results_back() {
    for (int round = 0; round < 100; round++) {
        std::vector<std::future<std::vector<int>>> futures;
        for (int i = 0; i < 8; i++)
            futures.push_back(std::async(std::launch::async, [i] {
                return std::vector<int>(static_cast<size_t>(i) * 1000 + 1, i);
            }));
        for (int i = 0; i < 8; i++) {
            std::vector<int> result = futures[static_cast<size_t>(i)].get();
            CHECK(result.size() == static_cast<size_t>(i) * 1000 + 1 && result.back() == i);
        }
    }
}

struct alignas(128) Line {
    uint64_t words[16];
};

void shared_and_over_aligned_objects_are_shared() {
    auto shared = std::make_shared<std::vector<Line>>(100);
    in_threads([shared](int thread) {
        std::vector<std::shared_ptr<Line>> lines;
        for (int i = 0; i < 5000; i++) {
            lines.push_back(std::make_shared<Line>());
            CHECK(check_aligned(lines.back().get(), alignof(Line)));
            lines.back()->words[15] = static_cast<uint64_t>(thread);
            if (lines.size() > 100) lines.erase(lines.begin(), lines.begin() + 50);
        }
        std::vector<Line> own(*shared);
        own.resize(3000);
        CHECK(check_aligned(own.data(), alignof(Line)));
        for (auto &line : lines) CHECK(line->words[15] == static_cast<uint64_t>(thread));
    });
    CHECK(shared.use_count() == 1);
}

} // namespace

CHECK_MAIN(CASE(threads_fill_containers_of_every_kind),
           CASE(threads_sort_and_format),
           CASE(messages_pass_between_threads),
           CASE(futures_bring_results_back),
           CASE(shared_and_over_aligned_objects_are_shared))
