// The portable level: no instruction set beyond the platform's own.
#define FASTBLUR_CPU_LEVEL generic
#include "make_level.h"
#include "simd_generic.h"

namespace fastblur::cpu::generic {
static bool supported() { return true; }
extern const Level level =
    make_level<Generic<float, int32_t>, Generic<double, int64_t>>("generic", &supported);
}  // namespace fastblur::cpu::generic
