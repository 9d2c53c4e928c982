// The AVX2 target: all kernels with the vectors of simd/avx2.h and simd/avx2_f64.h. The instruction
// set is turned on for this file only, and after the headers from outside (see simd/prelude.h). So
// one binary runs everywhere and chooses its target at run time.
#include "cpu/simd/prelude.h"

#if defined(__x86_64__)
#include <cpuid.h>

// This stands before the instruction set is on, because it must run on any machine.
namespace fastblur::cpu::avx2 {
static bool supported() {
  // From cpuid, because Clang 14 does not know the name "f16c".
  unsigned eax, ebx, ecx = 0, edx;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
}  // namespace fastblur::cpu::avx2

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define FASTBLUR_CPU_TARGET avx2
#include "cpu/simd/avx2.h"
#include "cpu/simd/avx2_f64.h"
#include "cpu/targets/make_target.h"

namespace fastblur::cpu::avx2 {
extern const Target target = make_target<Avx2F32, Avx2F64>("avx2", &supported);
}  // namespace fastblur::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
