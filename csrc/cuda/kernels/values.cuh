// Numbers as the kernels hold them: conversions of single elements, and vectors for wide accesses.
#pragma once

#include <climits>
#include <cmath>
#include <cstring>

#include "cuda/runtime.h"

// max.NaN begins with compute capability 8.0.
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

// N elements that are loaded and stored at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

// max_pool2d's rule, left to right and top to bottom: a later candidate takes over if it is larger
// or NaN. So of equal values the first wins, and of several NaN the last.
FASTBLUR_DEVICE bool takes_over(float later, float best) { return later > best || later != later; }

// The same step for less: the larger of the two, or NaN, and `bit` set in `code` if it is not
// `best`. Where `best` is already NaN the bit is set even if `later` is not; a kernel that uses
// this looks for NaN in what it makes of the values, and then chooses again by the exact rule.
FASTBLUR_DEVICE float take_larger(float best, float later, unsigned& code, unsigned bit) {
#if !FASTBLUR_MAX_NAN
  const float larger = best != best ? best : takes_over(later, best) ? later : best;
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

// The larger of the two, or NaN.
FASTBLUR_DEVICE float larger_of(float a, float b) {
#if !FASTBLUR_MAX_NAN
  return a != a ? a : takes_over(b, a) ? b : a;
#else
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
#endif
}

// sum += a * b, if `here`. Written as a branch, such additions of neighbouring array elements under
// neighbouring conditions become one with a computed index, and the arrays go to memory.
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

// sum += a, if `here`; a branch around it would be one that the lanes of a warp disagree about.
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

// Tells the reader of the machine code that what follows is not on the regular path (see
// tests/sass.py); does nothing.
FASTBLUR_DEVICE void rarely() {
#if !defined(FASTBLUR_CUDA_ON_HOST)
  asm volatile("pmevent 7;");
#endif
}

}  // namespace fastblur::cuda
