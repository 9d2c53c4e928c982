// The AVX2 target. The instruction set is turned on after the outside headers (see simd/prelude.h)
// and only for this file, so one binary runs everywhere and picks its target when it runs.
#include "cpu/simd/prelude.h"

#if defined(__x86_64__)

// Before the instruction set is on: this much runs on any machine.
namespace fastblur::cpu::avx2 {
static bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
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
