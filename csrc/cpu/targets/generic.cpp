// The generic target: all kernels with the vectors of simd/generic.h. It needs no instruction set
// beyond the platform's own.
#define FASTBLUR_CPU_TARGET generic
#include "cpu/simd/generic.h"
#include "cpu/targets/make_target.h"

namespace fastblur::cpu::generic {
static bool supported() { return true; }
extern const Target target =
    make_target<Generic<float, int32_t>, Generic<double, int64_t>>("generic", &supported);
}  // namespace fastblur::cpu::generic
