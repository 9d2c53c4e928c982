// The sizes that the CPU kernels know at compile time: the dispatch table. Any other size runs the
// same code with the size read at run time.
#pragma once

namespace fastblur::cpu {

template <int... kKnown>
struct KnownSizes {
  // n if it is one of the known sizes, otherwise 0: the size is read at run time.
  static constexpr int known(int n) { return ((n == kKnown) || ...) ? n : 0; }
};

using SquarePools = KnownSizes<1, 2, 3>;
using TapCounts = KnownSizes<2, 3, 4, 5>;     // taps along a row
using RowCounts = KnownSizes<1, 2, 3, 4, 5>;  // rows that one row of B_v or of its transpose sums

template <int... kTaps>
constexpr bool are_row_counts(KnownSizes<kTaps...>) {
  return (RowCounts::known(kTaps) && ...);
}
static_assert(are_row_counts(TapCounts{}), "every number of TapCounts must be in RowCounts");

constexpr int specialised_pool(int pool_h, int pool_w) {
  return pool_h == pool_w ? SquarePools::known(pool_h) : 0;
}

}  // namespace fastblur::cpu
