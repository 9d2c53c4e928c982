// The CPU kernels of one target and one element type, for kernels.py: compiled at once and quickly.
//
// DRIVER_VECTOR: the vector type; DRIVER_ELEMENT: of memory; DRIVER_AVX2: whether to turn it on;
// DRIVER_POOL: the pool that is known at compile time, which may be 0; without it, all that are.
#include "cpu/arena.cpp"
#include "cpu/simd/prelude.h"
#include "cpu/stages/vertical_taps.cpp"
#include "cpu/targets/target.h"
#include "plan.cpp"

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

// sizes: n, c, h, w, channels_last; then pool, stride, pad, taps for each axis, blur_padding, relu.
Params params(const int64_t* sizes, const double* taps, const char* mode) {
  const int64_t* g = sizes + 5;
  const std::vector<double> taps_h(taps, taps + g[6]), taps_w(taps + g[6], taps + g[6] + g[7]);
  const Plan plan({g[0], g[1]}, {g[2], g[3]}, {g[4], g[5]}, taps_h, taps_w,
                  {g[8], g[9], g[10], g[11]}, mode, g[12] != 0);
  return plan.params({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4] != 0});
}

// In shares of rows, as threads have them.
template <class F>
void in_shares(int64_t rows, int64_t shares, F f) {
  for (int64_t k = 0; k < shares; ++k) f(rows * k / shares, rows * (k + 1) / shares);
}

}  // namespace

extern "C" int64_t code_bytes(const int64_t* sizes, const double* taps, const char* mode) {
  return code_bytes_per_image(params(sizes, taps, mode));
}

// forward with codes and without, apply with those codes, backward.
extern "C" void run(const int64_t* sizes, const double* taps, const char* mode, int64_t shares,
                    const Element* x, const Element* dy, Element* y, Element* without,
                    Element* applied, uint8_t* codes, Element* dx) {
  const Params p = params(sizes, taps, mode);
  const VerticalTaps vertical(p);
  in_shares(p.planes() * p.h.pooled(), shares, [&](int64_t begin, int64_t end) {
    Kernel::forward(p, vertical, x, y, codes, begin, end);
    Kernel::forward(p, vertical, x, without, nullptr, begin, end);
  });
  in_shares(p.planes() * p.h.pooled(), shares, [&](int64_t begin, int64_t end) {
    Kernel::apply(p, vertical, x, codes, applied, begin, end);
  });
  in_shares(p.planes() * p.h.size, shares, [&](int64_t begin, int64_t end) {
    Kernel::backward(p, vertical, dy, codes, dx, begin, end);
  });
}
