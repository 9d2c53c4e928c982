// The headers that every file of targets/ includes before it turns its instruction set on.
//
// All headers from outside belong here. If one of their inline functions were compiled with, say,
// AVX-512, the linker could keep that copy for the whole program.
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
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu/arena.h"
#include "cpu/codes/layout.h"
#include "cpu/kernels/specialisation.h"
#include "cpu/simd/float16.h"
#include "cpu/stages/vertical_taps.h"

// For the steps of a kernel: inlined, they share registers.
#define FASTBLUR_INLINE __attribute__((always_inline))

namespace fastblur::cpu {
// A piece: so many bytes may bypass the caches on their own. The rest of their cache line should
// follow soon.
constexpr int64_t kPiece = 32;
}  // namespace fastblur::cpu
