// S_h' S_v' of one vector of windows, for the fused backward kernels: Routing gives each candidate
// the gradients of the windows whose codes name it. InteriorRows recognises pairs of rows away
// from the borders.
#pragma once

#include "cpu/simd/vector.h"
#include "cpu/targets/target.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// Two rows of dv = B_v' dy away from the borders, for F taps and stride 2: an even row of padded m
// and the next one. The even row is a sum of kEven consecutive rows of dy, the odd row one of kOdd.
// Both end with the same row of dy.
template <int F>
struct InteriorRows {
  static constexpr int kEven = (F + 1) / 2, kOdd = F / 2;

  static bool are(VerticalTaps::List even, VerticalTaps::List odd) {
    if (even.size() != kEven || odd.size() != kOdd) return false;
    const int64_t last = even.end()[-1].row;
    bool interior = true;
    for (int k = 0; k < kEven; ++k) interior &= even.end()[-1 - k].row == last - k;
    for (int k = 0; k < kOdd; ++k) interior &= odd.end()[-1 - k].row == last - k;
    return interior;
  }
};

// decode() selects by the winner's row, with blends; accumulate() then selects by its column, with
// masked sums. Rows come first, because blends may use more of a processor's ports than sums.
template <class V, int K>
class Routing {
 public:
  static_assert(1 <= K && K <= 3, "decode() knows the codes of windows of 1, 2 and 3");
  using Mask = typename V::Mask;

  // Decodes the codes of the windows with gradients dm. mask(b) is bit plane b of the codes. A code
  // that names no candidate may select several.
  template <class F>
  __attribute__((always_inline)) void decode(V dm, bool relu, F mask) {
    constexpr int kRow = column_bits(K);  // the first bit plane of the winner's row
    const V zero = V::set1(0);
    if constexpr (K == 1) {
      of_row_[0] = relu ? V::if_then_else(mask(kRow), zero, dm) : dm;
    } else if constexpr (K == 2) {
      const Mask second = mask(kRow);
      column_[1] = mask(0), column_[0] = V::neither(column_[1], column_[1]);
      of_row_[0] = V::if_then_else(second, zero, dm);
      if (relu) of_row_[0] = V::if_then_else(mask(kRow + 1), zero, of_row_[0]);
      of_row_[1] = V::if_then_else(second, dm, zero);
    } else {
      const Mask second = mask(kRow), third = mask(kRow + 1);
      const V not_third = V::if_then_else(third, zero, dm);
      of_row_[0] = V::if_then_else(second, zero, not_third);
      of_row_[1] = V::if_then_else(second, not_third, zero);
      of_row_[2] = V::if_then_else(third, dm, zero);
      if (relu) of_row_[2] = V::if_then_else(second, zero, of_row_[2]);  // both bits: no winner
      for (V& v : of_row_) v = V::held(v);
      column_[1] = mask(0), column_[2] = mask(1), column_[0] = V::neither(column_[1], column_[2]);
    }
  }

  // Adds what candidate (r, c) gets to `sum`, or, with `begins`, sets `sum` to it.
  __attribute__((always_inline)) void accumulate(bool begins, int r, int c, V& sum) const {
    if (K == 1) sum = begins ? of_row_[r] : V::add(sum, of_row_[r]);
    else if (begins) sum = V::if_then_else(column_[c], of_row_[r], V::set1(0));
    else sum = V::add_where(column_[c], sum, of_row_[r]);
  }

 private:
  V of_row_[K];     // dm where the winner is in this row, else 0
  Mask column_[K];  // where the winner is in this column
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
