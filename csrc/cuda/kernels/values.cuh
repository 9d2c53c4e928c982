// Operations on single values that all kernels share: conversions, vectors for wide accesses, the
// tie rule of the max, and predicated additions. Comparisons and predicated additions are inline
// PTX on the GPU, and plain C++ in the test runner on the CPU (tests/cuda_on_host/).
#pragma once

#include <climits>
#include <cmath>
#include <cstring>

#include "cuda/runtime.h"

// max.NaN needs compute capability 8.0. Older GPUs and the CPU compare in plain C++.
#if defined(FASTBLUR_CUDA_ON_HOST) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800)
#define FASTBLUR_MAX_NAN 0
#else
#define FASTBLUR_MAX_NAN 1
#endif

namespace fastblur::cuda {

FASTBLUR_DEVICE float to_float(float v) { return v; }
FASTBLUR_DEVICE float to_float(__half v) { return __half2float(v); }
FASTBLUR_DEVICE float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
FASTBLUR_DEVICE T from_float(float v) {
  if constexpr (std::is_same_v<T, float>) return v;
  else if constexpr (std::is_same_v<T, __half>) return __float2half_rn(v);
  else return __float2bfloat16_rn(v);
}

// N elements that one instruction loads or stores.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

// The tie rule of max_pool2d. Candidates are compared from left to right and from top to bottom,
// and a later candidate takes over if it is larger or NaN. So the first of equal values wins, and
// so does the last NaN.
FASTBLUR_DEVICE bool takes_over(float later, float best) { return later > best || later != later; }

// The larger of a and b, or NaN if either is NaN. Of two zeros +0 is the larger.
FASTBLUR_DEVICE float larger_of(float a, float b) {
#if !FASTBLUR_MAX_NAN
  if (a == b) return std::signbit(a) ? b : a;
  return a > b || a != a ? a : b;
#else
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
#endif
}

// A cheaper form of takes_over. Returns the larger value, or NaN if either value is NaN, and sets
// `bit` in `code` if the result is not equal to `best`. If `best` is already NaN, the bit is set
// even if `later` is a number, which breaks the tie rule. A kernel that uses take_larger must
// therefore look for NaN in its results, and then select again by the exact rule (exact_tile.cuh).
FASTBLUR_DEVICE float take_larger(float best, float later, unsigned& code, unsigned bit) {
#if !FASTBLUR_MAX_NAN
  const float larger = larger_of(best, later);
  if (!(larger == best)) code |= bit;
#else
  float larger;
  asm("{\n\t.reg .pred taken;\n\t"
      "max.NaN.f32 %0, %2, %3;\n\t"
      "setp.neu.f32 taken, %0, %2;\n\t"
      "@taken or.b32 %1, %1, %4;\n\t}"
      : "=&f"(larger), "+r"(code)
      : "f"(best), "f"(later), "r"(bit));
#endif
  return larger;
}

// Adds a * b to sum if `here`, by a predicated instruction. If such additions to neighbouring array
// elements are branches on neighbouring conditions, the compiler merges them into one addition with
// a computed index. The arrays then leave the registers and go to memory.
FASTBLUR_DEVICE void add_if(bool here, float& sum, float a, float b) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  if (here) sum = fmaf(a, b, sum);
#else
  asm("{\n\t.reg .pred here;\n\t"
      "setp.ne.u32 here, %3, 0;\n\t"
      "@here fma.rn.f32 %0, %1, %2, %0;\n\t}"
      : "+f"(sum)
      : "f"(a), "f"(b), "r"(unsigned(here)));
#endif
}

// Adds a to sum if `here`, by a predicated instruction. A branch would diverge within a warp.
FASTBLUR_DEVICE void add_if(bool here, float& sum, float a) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  if (here) sum += a;
#else
  asm("{\n\t.reg .pred here;\n\t"
      "setp.ne.u32 here, %2, 0;\n\t"
      "@here add.rn.f32 %0, %0, %1;\n\t}"
      : "+f"(sum)
      : "f"(a), "r"(unsigned(here)));
#endif
}

// The same value, but unknown to the compiler: what follows from it is calculated here, instead of
// earlier and kept in registers.
FASTBLUR_DEVICE int anew(int value) {
#if !defined(FASTBLUR_CUDA_ON_HOST)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// Marks the code that follows as off the regular path, for the reader of the machine code
// (tests/gpu/sass.py), and for the test runner, which counts it. Has no effect on results.
FASTBLUR_DEVICE void rarely() {
#if defined(FASTBLUR_CUDA_ON_HOST)
  cuda_on_host::on_rare();
#else
  asm volatile("pmevent 7;");
#endif
}

}  // namespace fastblur::cuda
