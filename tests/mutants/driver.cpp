// The CPU kernels of one target and one element type, for kernels.py: compiled at once and quickly.
//
// DRIVER_VECTOR: the vector type; DRIVER_ELEMENT: of memory; DRIVER_AVX2: whether to turn it on;
// DRIVER_POOL: the pool that is known at compile time, which may be 0; without it, all that are.
#include "cpu/arena.cpp"
#include "cpu/simd/prelude.h"
#include "cpu/stages/vertical_taps.cpp"
#include "cpu/targets/target.h"
#include "plan.cpp"
#include "../kernels/drivers.h"

#if defined(DRIVER_AVX2)
#pragma GCC target("avx2,fma,f16c")
#endif

#define FASTBLUR_CPU_TARGET driver
#include "cpu/simd/generic.h"
#include "cpu/targets/make_target.h"
#if defined(DRIVER_AVX2)
#include "cpu/simd/avx2.h"
#include "cpu/simd/avx2_f64.h"
#endif

namespace {

using namespace fastblur;
using namespace fastblur::cpu;
using namespace fastblur::cpu::driver;
using Element = DRIVER_ELEMENT;
using Float = Generic<float, int32_t>;

#if defined(DRIVER_POOL)
// Entry of make_target.h with one pool.
struct Kernel {
  using V = DRIVER_VECTOR;
  static void forward(const Params& p, const VerticalTaps& vertical, const Element* x, Element* y,
                      uint8_t* codes, int64_t begin, int64_t end) {
    const Sweep<V> sweep(p, vertical);
    if (p.linear()) blur_only(sweep, x, y, begin, end);
    else if (codes) forward_as<V, Element, DRIVER_POOL, true>(sweep, x, y, codes, begin, end);
    else forward_as<V, Element, DRIVER_POOL, false>(sweep, x, y, codes, begin, end);
  }
  static void backward(const Params& p, const VerticalTaps& vertical, const Element* dy,
                       const uint8_t* codes, Element* dx, int64_t begin, int64_t end) {
    const Sweep<V> sweep(p, vertical);
    backward_as<V, Element, DRIVER_POOL>(sweep, dy, codes, dx, begin, end, false);
  }
  static void apply(const Params& p, const VerticalTaps& vertical, const Element* x,
                    const uint8_t* codes, Element* y, int64_t begin, int64_t end) {
    const Sweep<V> sweep(p, vertical);
    if (p.linear()) blur_only(sweep, x, y, begin, end);
    else apply_as(sweep, x, codes, y, begin, end);
  }
};
#else
using Kernel = Entry<DRIVER_VECTOR, Element>;
#endif

}  // namespace

extern "C" int64_t code_bytes(const int64_t* sizes, const double* taps, const char* mode) {
  return code_bytes_per_image(params(sizes, taps, mode));
}

extern "C" void run(const int64_t* sizes, const double* taps, const char* mode, int64_t shares,
                    const Element* x, const Element* dy, Element* y, Element* without,
                    Element* applied, uint8_t* codes, Element* dx) {
  run_all(Kernel{}, params(sizes, taps, mode), shares, x, dy, y, without, applied, codes, dx);
}
