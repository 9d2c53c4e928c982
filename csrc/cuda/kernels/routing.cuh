// Parts that both specialised backward kernels share: the test of a winner and, where blur padding
// takes part, the rows of dy that contribute to a row of dm.
#pragma once

#include "cuda/kernels/call.h"

namespace fastblur::cuda {

// Whether candidate z won. The bits of the winner begin at bit `at` of the TileCode `code`.
template <int K>
FASTBLUR_DEVICE bool won(unsigned code, int at, int z) {
  if (K == 2) return bool(code >> at & 1) == (z == 1);
  return z == 0 ? !(code & 3u << at) : bool(code & unsigned(z) << at);
}

// Calls f(q) for each row q of the padded m that is a copy of row r of m: row r itself, and rows of
// padding with source r.
template <class Fn>
FASTBLUR_DEVICE void for_each_padded(int r, int m_h, int after, int before, Border border, Fn f) {
#pragma unroll 1
  for (int q = before ? -before : r; q < m_h + after; q = q == -1 ? r : q == r ? m_h : q + 1)
    if (border_source(q, m_h, border) == r) f(q);
}

// Calls f(i, tap) for each row i of y that reads a row of the padded m with weight `tap`. That row
// has index `from_start`, counted from the first padding row. For stride 2 and F taps.
template <int F, class Fn>
FASTBLUR_DEVICE void for_each_output(int from_start, int y_h, const float (&taps)[kMaxSpecialTaps],
                                     Fn f) {
#pragma unroll 1
  for (int i = max((from_start - F + 2) >> 1, 0); 2 * i <= from_start && i < y_h; ++i)
    f(i, tap_at<F>(taps, from_start - 2 * i));
}

}  // namespace fastblur::cuda
