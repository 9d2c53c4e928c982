// The AVX-512 target: all kernels with the vectors of simd/avx512.h and, for float64, of
// simd/generic.h. It turns its instruction set on as avx2.cpp does.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its intrinsics
#endif

#include "cpu/simd/prelude.h"

#if defined(__x86_64__)

// This stands before the instruction set is on, because it must run on any machine.
namespace fastblur::cpu::avx512 {
static bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("fma");
}
}  // namespace fastblur::cpu::avx512

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif

#define FASTBLUR_CPU_TARGET avx512
#include "cpu/simd/avx512.h"
#include "cpu/simd/generic.h"
#include "cpu/targets/make_target.h"

namespace fastblur::cpu::avx512 {
extern const Target target = make_target<Avx512F32, Generic<double, int64_t>>("avx512", &supported);
}  // namespace fastblur::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
