// S_h' S_v' of one vector of windows: what each candidate gets, as the codes say.
#pragma once

#include "kernels.h"
#include "level.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

// Two rows of dv = B_v' dy, an even one of padded m and the next, as F taps and a stride of 2 give
// them away from the borders: the rows of dy that each sums lie one after the other, and the last
// is the same.
template <int F>
struct UsualRows {
  static constexpr int kEven = (F + 1) / 2, kOdd = F / 2;

  static bool are(VerticalTaps::List even, VerticalTaps::List odd) {
    if (even.size() != kEven || odd.size() != kOdd) return false;
    const int64_t last = even.end()[-1].row;
    bool usual = true;
    for (int k = 0; k < kEven; ++k) usual &= even.end()[-1 - k].row == last - k;
    for (int k = 0; k < kOdd; ++k) usual &= odd.end()[-1 - k].row == last - k;
    return usual;
  }
};

// Rows first: blends may use more of a processor's ports than sums.
template <class V, int K>
class Routing {
 public:
  using Mask = typename V::Mask;

  // Of gradients dm. mask(b): plane b of the codes. Bits that name no candidate may name several.
  template <class F>
  __attribute__((always_inline)) void find(V dm, bool relu, F mask) {
    constexpr int kRow = column_bits(K);  // the first plane of the row
    const V zero = V::splat(0);
    if constexpr (K == 1) {
      given_[0] = relu ? V::blend(mask(kRow), zero, dm) : dm;
    } else if constexpr (K == 2) {
      const Mask second = mask(kRow);
      column_[1] = mask(0), column_[0] = V::neither(column_[1], column_[1]);
      given_[0] = V::blend(second, zero, dm);
      if (relu) given_[0] = V::blend(mask(kRow + 1), zero, given_[0]);
      given_[1] = V::blend(second, dm, zero);
    } else {
      const Mask second = mask(kRow), third = mask(kRow + 1);
      const V not_third = V::blend(third, zero, dm);
      given_[0] = V::blend(second, zero, not_third);
      given_[1] = V::blend(second, not_third, zero);
      given_[2] = V::blend(third, dm, zero);
      if (relu) given_[2] = V::blend(second, zero, given_[2]);  // both: nobody
      for (V& v : given_) v = V::held(v);
      column_[1] = mask(0), column_[2] = mask(1), column_[0] = V::neither(column_[1], column_[2]);
    }
  }

  // Adds what candidate (r, c) gets to its sum, or begins the sum with it.
  __attribute__((always_inline)) void give(bool begins, int r, int c, V& sum) const {
    if (K == 1) sum = begins ? given_[r] : V::add(sum, given_[r]);
    else if (begins) sum = V::blend(column_[c], given_[r], V::splat(0));
    else sum = V::add_where(column_[c], sum, given_[r]);
  }

 private:
  V given_[K];      // by the rows, to any of their candidates
  Mask column_[K];  // that won
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
