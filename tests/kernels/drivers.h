// One call of everything that a target's kernels do, for the drivers of the tests.
#pragma once

#include <string>
#include <vector>

#include "cpu/stages/vertical_taps.h"
#include "plan.h"

namespace fastblur::cpu {

// sizes: n, c, h, w, channels_last; then pool, stride, pad, taps for each axis, blur_padding, relu.
constexpr int kSizes = 18;

inline Params params(const int64_t* sizes, const double* taps, const char* mode) {
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

// forward with codes and without, apply with those codes, backward.
template <class Kernel, class T>
void run_all(const Kernel& kernel, const Params& p, int64_t shares, const T* x, const T* dy, T* y,
             T* without, T* applied, uint8_t* codes, T* dx) {
  const VerticalTaps vertical(p);
  in_shares(p.planes() * p.h.pooled(), shares, [&](int64_t begin, int64_t end) {
    kernel.forward(p, vertical, x, y, codes, begin, end);
    kernel.forward(p, vertical, x, without, nullptr, begin, end);
  });
  in_shares(p.planes() * p.h.pooled(), shares, [&](int64_t begin, int64_t end) {
    kernel.apply(p, vertical, x, codes, applied, begin, end);
  });
  in_shares(p.planes() * p.h.size, shares, [&](int64_t begin, int64_t end) {
    kernel.backward(p, vertical, dy, codes, dx, begin, end);
  });
}

}  // namespace fastblur::cpu
