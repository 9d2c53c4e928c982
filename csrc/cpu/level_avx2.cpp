// The AVX2 level. The instruction set is turned on after the outside headers (see level.h) and only
// for this file, so one binary runs everywhere and picks its level when it runs.
#include "level.h"

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

#define FASTBLUR_CPU_LEVEL avx2
#include "make_level.h"
#include "simd_avx2.h"
#include "simd_avx2_f64.h"

namespace fastblur::cpu::avx2 {
extern const Level level = make_level<Avx2F32, Avx2F64>("avx2", &supported);
}  // namespace fastblur::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
