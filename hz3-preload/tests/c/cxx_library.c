/*
 * cxx_library.c: a C program that loads a C++ library late and with local scope, as interpreters
 * load their extensions. operator new must find the C++ runtime that came with the library. The
 * path of cpp/plugin/failing.cpp's library stands behind the case's name.
 */
#include "check.h"

static void bad_alloc_reaches_a_cxx_library_of_a_c_program(void) {
    CHECK_THAT(check_arguments[0] != NULL, "the plugin's path is missing");
    for (int round = 0; round < 3; round++) {
        void *handle = dlopen(check_arguments[0], RTLD_NOW | RTLD_LOCAL);
        CHECK_THAT(handle != NULL, "%s", dlerror());
        int (*fails)(size_t) = (int (*)(size_t))dlsym(handle, "plugin_fails_as_it_should");
        CHECK(fails != NULL);
        int step = fails(SIZE_MAX / 2 + 1);
        CHECK_THAT(step == 0, "step %d of plugin/failing.cpp went wrong", step);
        CHECK(dlclose(handle) == 0);
    }
}

CHECK_MAIN(CASE(bad_alloc_reaches_a_cxx_library_of_a_c_program))
