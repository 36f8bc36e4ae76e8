// Standard containers, exceptions and threads; the headers alone make the compiler allocate.
#include <algorithm>
#include <deque>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

struct alignas(128) Wide {
    unsigned values[32];
};

static std::size_t words(unsigned seed)
{
    std::minstd_rand source(seed);
    std::unordered_map<std::string, std::vector<unsigned>> places;
    for (unsigned i = 0; i < 20000; ++i)
        places["word" + std::to_string(source() % 3000)].push_back(i);
    std::map<std::size_t, std::deque<std::string>> by_count;
    for (const auto &[word, where] : places)
        by_count[where.size()].push_back(word);
    return std::accumulate(by_count.begin(), by_count.end(), std::size_t{0},
                           [](std::size_t sum, const auto &entry) { return sum + entry.first * entry.second.size(); });
}

static unsigned thrown(unsigned depth)
{
    std::unique_ptr<std::string> guard(new std::string(depth * 10, 'x'));
    if (depth == 0)
        throw std::runtime_error(std::string(200, 'y'));
    return thrown(depth - 1) + static_cast<unsigned>(guard->size());
}

int main()
{
    std::vector<std::future<std::size_t>> jobs;
    for (unsigned seed = 1; seed <= 8; ++seed)
        jobs.push_back(std::async(std::launch::async, words, seed));
    for (auto &job : jobs)
        std::cout << "words: " << job.get() << '\n';

    unsigned caught = 0;
    for (unsigned i = 0; i < 500; ++i) {
        try {
            thrown(i % 20);
        } catch (const std::exception &error) {
            caught += static_cast<unsigned>(std::string(error.what()).size());
        }
    }
    std::cout << "caught: " << caught << '\n';

    std::vector<std::unique_ptr<Wide>> wide;
    for (unsigned i = 0; i < 1000; ++i) {
        wide.push_back(std::make_unique<Wide>());
        if (reinterpret_cast<std::uintptr_t>(wide.back().get()) % alignof(Wide) != 0)
            return 1;
    }
    std::cout << "wide: " << wide.size() << '\n';

    std::string text;
    for (int i = 0; i < 2000; ++i)
        text += "key" + std::to_string(i) + "=" + std::to_string(i * i) + ";";
    const std::regex pattern("([a-z]+)([0-9]+)=([0-9]*7);");
    std::cout << "matches: " << std::distance(std::sregex_iterator(text.begin(), text.end(), pattern), std::sregex_iterator()) << '\n';

    std::function<std::size_t(std::size_t)> nested = [&](std::size_t depth) {
        std::vector<std::size_t> values(depth);
        std::iota(values.begin(), values.end(), std::size_t{0});
        return depth == 0 ? 0 : values.back() + nested(depth - 1);
    };
    std::cout << "nested: " << nested(500) << '\n';

    try {
        std::vector<char> never(std::vector<char>().max_size());
        return 1;
    } catch (const std::bad_alloc &) {
        std::cout << "bad_alloc\n";
    }
}
