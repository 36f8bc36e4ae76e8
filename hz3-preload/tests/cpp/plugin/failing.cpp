// failing.cpp: a C++ library for a C program, which loads it with local scope: the C++ runtime that
// comes with it is not among the program's global symbols.

#include <cstddef>
#include <new>
#include <string>

namespace {

int calls;

void give_up_after_three_calls() {
    if (++calls == 3) std::set_new_handler(nullptr);
}

} // namespace

// 0 if a request of `size` bytes calls the new-handler three times and then throws bad_alloc;
// otherwise the number of the step that went wrong.
extern "C" int plugin_fails_as_it_should(std::size_t size) {
    calls = 0;
    std::set_new_handler(give_up_after_three_calls);
    try {
        ::operator delete(::operator new(size));
        return 1;
    } catch (const std::bad_alloc &) {
        if (calls != 3) return 2;
    }
    try {
        ::operator delete(::operator new(size, std::align_val_t(64)), std::align_val_t(64));
        return 3;
    } catch (const std::bad_alloc &) {
    }
    if (::operator new(size, std::nothrow) != nullptr) return 4;
    std::string text(1000, 'x');
    return text.size() == 1000 ? 0 : 5;
}
