// The NEON target: all kernels with the vectors of simd/neon.h and, for float64, of simd/generic.h.
// NEON is part of the 64-bit Arm architecture, so nothing is turned on.
#include "cpu/simd/prelude.h"

#if defined(__aarch64__)

#define FASTBLUR_CPU_TARGET neon
#include "cpu/simd/generic.h"
#include "cpu/simd/neon.h"
#include "cpu/targets/make_target.h"

namespace fastblur::cpu::neon {
static bool supported() { return true; }
extern const Target target = make_target<NeonF32, Generic<double, int64_t>>("neon", &supported);
}  // namespace fastblur::cpu::neon

#endif
