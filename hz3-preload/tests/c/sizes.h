/*
 * sizes.h: the sizes that a test walks through: every size up to 1 KiB, then around each eighth of
 * a power of two (one below, the step itself, one above), which meets both edges of every size
 * class of any usual spacing.
 */
#ifndef SIZES_H
#define SIZES_H

#include "check.h"

#define SIZES_CAPACITY 2048

struct sizes {
    size_t count;
    size_t of[SIZES_CAPACITY];
};

/* All sizes from 0 to `limit`, ascending. */
static CHECK_UNUSED void sizes_up_to(struct sizes *sizes, size_t limit) {
    sizes->count = 0;
    for (size_t size = 0; size < KIB && size <= limit; size++) sizes->of[sizes->count++] = size;
    for (size_t power = KIB; power <= limit; power *= 2) {
        for (size_t eighth = 0; eighth < 8; eighth++) {
            size_t step = power + eighth * (power / 8);
            for (size_t size = step - 1; size <= step + 1 && size <= limit; size++)
                sizes->of[sizes->count++] = size;
        }
    }
    CHECK(sizes->count <= SIZES_CAPACITY);
}

#endif
