// What every file in targets/ includes before it turns its instruction set on.
//
// All outside headers belong here: an inline function of theirs that was compiled with, say,
// AVX-512 on could be the copy that the linker keeps for the whole program.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/arena.h"
#include "cpu/codes/layout.h"
#include "cpu/kernels/specialisation.h"
#include "cpu/simd/float16.h"
#include "cpu/stages/vertical_taps.h"

// Of the steps of a kernel, which share registers.
#define FASTBLUR_INLINE __attribute__((always_inline))

namespace fastblur::cpu {
// Bytes that go past the caches by themselves. The rest of their line should follow soon.
constexpr int64_t kPiece = 32;
}  // namespace fastblur::cpu
