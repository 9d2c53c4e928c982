// The portable level: no instruction set beyond the platform's own.
#define FASTBLUR_CPU_LEVEL generic
#define FASTBLUR_CPU_FUSES 0
#include "make_level.h"
#include "simd_generic.h"

namespace fastblur::cpu::generic {
static bool supported() { return true; }
extern const Level level = make_level<GenericF32, GenericF64>("generic", &supported);
}  // namespace fastblur::cpu::generic
