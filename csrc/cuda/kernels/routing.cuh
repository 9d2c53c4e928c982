// Parts that both specialised backward kernels share: the test of a winner, and what the blur
// padding adds to a row of dm.
#pragma once

#include "cuda/kernels/call.h"

namespace fastblur::cuda {

// Whether candidate z won. The bits of the winner begin at bit `at` of the TileCode `code`.
template <int K>
FASTBLUR_DEVICE bool won(unsigned code, int at, int z) {
  if (K == 2) return bool(code >> at & 1) == (z == 1);
  return z == 0 ? !(code & 3u << at) : bool(code & unsigned(z) << at);
}

// Where one of the two rows of dm is that a step computes, and what the padding adds to it. The
// step holds D = S::kSums rows of dy, the first of which has the number of the step.
template <class S>
struct RowPlace {
  static constexpr int F = S::kTaps, B = S::kBefore, D = S::kSums;
  const Call& c;
  const int step, row;
  bool exists;
  // The last row of dy reads a copy of the row, with its last tap, but the step does not hold it.
  // That is so for one row of an even number of taps, which comes before those in its window.
  bool reached = false;

  FASTBLUR_DEVICE RowPlace(const Call& c, int step, int r)
      : c(c),
        step(step),
        row(2 * step + int(S::kRows.first_row(0)) + r),
        exists(row >= 0 && row < c.m_h) {
    const int last = c.y_h - 1;
    fastblur::for_each_copy(row, c.m_h, B, c.after_h, c.border, [&](int64_t p) {
      // In the padding, only the first row of dy reads before the first row of m, and only the last
      // row reads after the last one.
      const int from_end = 2 * last - B + F - 1 - int(p);
      if (p < 0) copies_ |= 1u << int(-1 - p);
      else if (F % 2 == 0 && r == 1 && last - step == D) reached = from_end == 0;
      else if (from_end >= 0) copies_ |= 1u << (B + from_end);
    });
  }

  // Calls f(d, tap) for each copy of the row in the padding: row d of dy, counted from the step's
  // first, reads it with weight `tap`. d is known at compile time.
  template <class Fn>
  FASTBLUR_DEVICE void for_each_copy(Fn f) const {
#pragma unroll
    for (int k = 0; k < B + F / 2; ++k) {
      if (!(copies_ >> k & 1)) continue;
      const int from = (k < B ? 0 : c.y_h - 1) - step;
#pragma unroll
      for (int d = 0; d < D; ++d)
        if (d == from) f(d, c.taps_h[k < B ? B - 1 - k : F - 1 - (k - B)]);
    }
  }

 private:
  unsigned copies_ = 0;  // bit k: the first row of dy reads a copy with tap B - 1 - k; bit B + k:
                         // the last row with tap F - 1 - k
};

}  // namespace fastblur::cuda
