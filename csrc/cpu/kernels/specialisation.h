// The sizes that the CPU kernels know at compile time: the dispatch table. Any other size runs the
// same code with the size read at run time.
#pragma once

namespace fastblur::cpu {

template <int... kKnown>
struct KnownSizes {
  // n itself if it is one of them, else 0, which stands for "at run time".
  static constexpr int known(int n) { return ((n == kKnown) || ...) ? n : 0; }
};

using SquarePools = KnownSizes<1, 2, 3>;
// A number of taps stands in both: TapCounts for the columns, RowCounts for the rows.
using TapCounts = KnownSizes<2, 3, 4, 5>;
using RowCounts =
    KnownSizes<1, 2, 3, 4, 5>;  // rows that one row of a blur, or of its transpose, sums

constexpr int specialised_pool(int pool_h, int pool_w) {
  return pool_h == pool_w ? SquarePools::known(pool_h) : 0;
}

}  // namespace fastblur::cpu
