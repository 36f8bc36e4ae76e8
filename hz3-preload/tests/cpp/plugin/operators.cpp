// operators.cpp: some basic forms of operator new and delete replaced, with blocks of a pool of their own. REPLACED says
// which; without it all that the others are made of. A part of replaced.cpp, or a library that is preloaded beside it.

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

#define REPLACED_PLAIN 1
#define REPLACED_ARRAY 2
#define REPLACED_ALIGNED 4
#define REPLACED_ALIGNED_ARRAY 8
#define REPLACED_NOTHROW 16
#ifndef REPLACED
#define REPLACED (REPLACED_PLAIN | REPLACED_ALIGNED)
#endif

namespace {

alignas(4096) char pool[8 << 20];
size_t pool_used;
long pool_live;
pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
bool pool_fails;

[[maybe_unused]] void *pool_take(size_t size, size_t alignment) {
    if (pool_fails) throw std::bad_alloc();
    pthread_mutex_lock(&pool_lock);
    size_t start = (pool_used + alignment - 1) & ~(alignment - 1);
    if (start + size + 16 > sizeof pool) abort();
    pool_used = start + size + 16;
    pool_live++;
    pthread_mutex_unlock(&pool_lock);
    return pool + start;
}

[[maybe_unused]] void pool_give(void *block) {
    if (block == nullptr) return;
    if (uintptr_t(block) - uintptr_t(pool) >= sizeof pool) {
        fprintf(stderr, "a replaced delete was given %p, which is not of its pool\n", block);
        _Exit(1);
    }
    pthread_mutex_lock(&pool_lock);
    pool_live--;
    pthread_mutex_unlock(&pool_lock);
}

} // namespace

extern "C" int replaced_forms() { return REPLACED; }
extern "C" int replaced_owns(void *block) { return uintptr_t(block) - uintptr_t(pool) < sizeof pool; }
extern "C" long replaced_live() { return pool_live; }
extern "C" void replaced_fail(int fails) { pool_fails = fails != 0; }

#if REPLACED & REPLACED_PLAIN
void *operator new(size_t size) { return pool_take(size, 16); }
void operator delete(void *block) noexcept { pool_give(block); }
#endif
#if REPLACED & REPLACED_ARRAY
void *operator new[](size_t size) { return pool_take(size, 16); }
void operator delete[](void *block) noexcept { pool_give(block); }
#endif
#if REPLACED & REPLACED_ALIGNED
void *operator new(size_t size, std::align_val_t alignment) { return pool_take(size, size_t(alignment)); }
void operator delete(void *block, std::align_val_t) noexcept { pool_give(block); }
#endif
#if REPLACED & REPLACED_ALIGNED_ARRAY
void *operator new[](size_t size, std::align_val_t alignment) { return pool_take(size, size_t(alignment)); }
void operator delete[](void *block, std::align_val_t) noexcept { pool_give(block); }
#endif
#if REPLACED & REPLACED_NOTHROW
void *operator new(size_t size, const std::nothrow_t &) noexcept {
    try {
        return ::operator new(size);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}
#endif
