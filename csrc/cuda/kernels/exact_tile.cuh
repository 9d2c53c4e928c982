// Selects the winners of one tile by the exact tie rule, one element at a time. The specialised
// forward kernels use it if their results contain a NaN, because take_larger may then set wrong
// bits.
#pragma once

#include "cuda/kernels/call.h"
#include "cuda/kernels/values.cuh"
#include "cuda/launch/specialisation.h"

namespace fastblur::cuda {

// Returns the raw bits of the tile in rows `row` and row + 1 of m and the columns from `column`.
// Raw bit z - 1 of a winner says that candidate z took over from the candidates before it.
// x_at(r, c) is element (r, c) of x. Nobody bits are not included: the caller's remain valid,
// because a NaN never sets one.
template <class S, class At>
FASTBLUR_DEVICE unsigned exact_tile(const Call& c, int row, int column, At x_at) {
  constexpr int K = S::kPool, P = S::kPad;
  using Bits = typename S::Bits;
  unsigned bits = 0;
#pragma unroll 1
  for (int i = 0; i < kTileRows * kTileColumns; ++i) {
    const int e = i / kTileColumns, j = i % kTileColumns, at = Bits::at(e, j);
    if (column + j >= c.m_w) continue;
    float best = 0;
#pragma unroll 1
    for (int v = 0; v < K; ++v) {
      const int x_row = row + e - P + v;
      if (x_row < 0 || x_row >= c.h) continue;
      float best_in_row = 0;
      unsigned columns = 0;
#pragma unroll 1
      for (int z = 0; z < K; ++z) {
        const int from = column + j - P + z;
        if (from < 0 || from >= c.w) continue;
        const float later = x_at(x_row, from);
        // The first candidate inside x takes over from the padding, whatever its value.
        const bool taken = from == 0 || z == 0 || takes_over(later, best_in_row);
        if (taken && z > 0) columns |= 1u << (z - 1);
        best_in_row = taken ? later : best_in_row;
      }
      if (v == K - 1) bits |= columns << at;
      const bool taken = x_row == 0 || v == 0 || takes_over(best_in_row, best);
      if (taken && v > 0 && row + e >= 0) bits |= 1u << (Bits::kRowWinners + at + v - 1);
      best = taken ? best_in_row : best;
    }
  }
  return bits;
}

}  // namespace fastblur::cuda
