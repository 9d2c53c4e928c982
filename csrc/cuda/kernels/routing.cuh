// What both backward kernels share: the winners' bits, and the rows of dy that a row of dm is made
// of where the blur's padding takes part.
#pragma once

#include "cuda/kernels/call.h"

namespace fastblur::cuda {

// Whether candidate z won, by the bits of a winner that begin at bit `at` of a tile's code.
template <int K>
FASTBLUR_DEVICE bool won(unsigned code, int at, int z) {
  if (K == 2) return bool(code >> at & 1) == (z == 1);
  return z == 0 ? !(code & 3u << at) : bool(code & unsigned(z) << at);
}

// Calls f with each row of the padded m that row r of m stands at.
template <class Fn>
FASTBLUR_DEVICE void for_each_padded(int r, int m_h, int after, int before, Border border, Fn f) {
#pragma unroll 1
  for (int q = before ? -before : r; q < m_h + after; q = q == -1 ? r : q == r ? m_h : q + 1)
    if (border_source(q, m_h, border) == r) f(q);
}

// Calls f(i, tap) for each row i of y that a row of the padded m takes part in; `from_start` counts
// that from the first padded one. With stride 2 and F taps.
template <int F, class Fn>
FASTBLUR_DEVICE void for_each_output(int from_start, int y_h, const float (&taps)[kMaxSpecialTaps],
                                     Fn f) {
#pragma unroll 1
  for (int i = max((from_start - F + 2) >> 1, 0); 2 * i <= from_start && i < y_h; ++i)
    f(i, tap_at<F>(taps, from_start - 2 * i));
}

}  // namespace fastblur::cuda
