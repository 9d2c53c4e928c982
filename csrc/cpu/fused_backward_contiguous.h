// S_h' S_v' B_h' B_v' for contiguous maps: rows of dy in, rows of dx out.
//
// Two rows of m are gone along together, a block of columns at a time: its even columns are one
// vector, its odd columns another. Two columns of m come from the same few columns of dv = B_v' dy,
// and in the codes too every second bit is in reach; so nothing is interleaved but what is
// finished. Gradients of windows never leave the registers. What a block gives to the one behind it
// is moved by a lane; the sums of rows of dx that the rows of m below add to are kept.
//
// Columns of dx are counted like those of m here: candidate c of column v is column v + c. If the
// max has a column of padding, that one is column 0, and what is finished waits for the next block,
// so that dx is written in whole vectors.
#pragma once

#include "routing.h"
#include "walk.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

template <class V, class T, int K, int F>  // window of the max, K x K; taps along a row
class FusedRowsBack {
 public:
  using S = typename V::Scalar;
  using Mask = typename V::Mask;

  static bool serves(const Params& p) {
    return p.step() == 1 && p.w.stride == 2 && p.w.pad <= 1 && p.w.before <= kMostPadding &&
           p.w.after <= kMostPadding;
  }

  FusedRowsBack(const Walk<V>& walk, const T* dy, const uint8_t* codes)
      : walk_(walk),
        dy_(dy),
        codes_(codes),
        end_of_codes_(codes + walk.p.batch * code_bytes_per_image(walk.p)),
        late_(walk.p.w.pad != 0),
        blocks_((walk.x_row + late_ + kBlock - 1) / kBlock),
        band_(least(most(rows_of_band(kBandOfDm, walk.pitch), kRowsOfDm), walk.p.h.pooled() + 3) /
              2 * 2),
        dv_pitch_((walk.y_row + kGap + L - 1) / L * L),
        dv_(1, band_ * dv_pitch_, kGap),
        code_row_(walk.p.linear() ? 0 : code_row_bytes(walk.p)),
        plane_(walk.p.h.pooled() * code_row_),
        code_reach_(walk.p.linear() ? 0 : (walk.code_bits - 1) * plane_ + blocks_ * kBlock / 8),
        last_codes_(2 * walk.code_bits, blocks_ * kBlock),
        begun_(1, blocks_ * kBegun, 0),
        spare_(1, walk.x_row, 0) {
    const auto folds = folds_of(walk.p.w, walk.p.border, walk.taps_w);
    for (int64_t block = 0; block < blocks_; ++block) edges_.push_back(edge_of(block, folds));
    while (inner_begin_ < blocks_ && !is_inner(inner_begin_)) ++inner_begin_;
    for (inner_end_ = inner_begin_; inner_end_ < blocks_ && is_inner(inner_end_);) ++inner_end_;
  }

  // Rows [x0, x1) of a unit's dx.
  void make(int64_t unit, int64_t x0, int64_t x1, T* dx) {
    const Params& p = walk_.p;
    std::memset((void*)begun_[0], 0, sizeof(S) * size_t(blocks_ * kBegun));
    // The first row of padded m that reaches these, and that exists.
    const int64_t reach = most(x0 + p.h.pad - K + 1, 0) + p.h.before;
    const int64_t end = x1 + p.h.pad;
    // Two rows are an even one of padded m and the next, wherever x0 is: so is the order of sums.
    for (int64_t u = 2 * (reach >> 1) - p.h.before, next; u < end; u = next) {
      next = least(u + band_, u + (end - u + 1) / 2 * 2);
      make_rows_of_dv(unit, u, next);
      with_truth(p.relu, [&](auto relu) {
        // A window of one element has no padding.
        if (K > 1 && late_) go_along<relu(), (K > 1)>(unit, u, next, x0, x1, dx);
        else go_along<relu(), false>(unit, u, next, x0, x1, dx);
      });
    }
  }

 private:
  static constexpr int L = V::kLanes;
  static constexpr int64_t kBlock = 2 * L;
  static constexpr int64_t kBegun = (K - 1) * kBlock;  // of a block
  static constexpr int64_t kMostPadding = 8;           // each column of it is seen to in every row
  static constexpr int64_t kGap = 2 * L;  // zeros between rows of dv, more than are read

  // What a column of the padding gives to one lane of a block; see Fold.
  struct LaneFold {
    int64_t from;
    S weight;
    unsigned lane;
    bool odd;  // of its two vectors
  };

  // What is to be heeded in a block at the end of a row.
  struct Edge {
    typename V::Word exists[2];  // windows of even and odd columns
    std::vector<LaneFold> folds;
  };

  Edge edge_of(int64_t block, const std::vector<Fold<S>>& folds) const {
    Edge edge;
    for (int f = 0; f < 2; ++f)
      edge.exists[f] = lanes_between<V>(0, (walk_.m_row - block * kBlock - f + 1) >> 1);
    for (const auto& fold : folds) {
      const int64_t v = fold.to - block * kBlock;
      if (v >= 0 && v < kBlock)
        edge.folds.push_back({fold.from, fold.weight, 1u << (v / 2), v % 2 != 0});
    }
    return edge;
  }

  // Whether all windows of a block and all columns of dx that it finishes exist, and no padding
  // adds to them.
  bool is_inner(int64_t block) const {
    return edges_[size_t(block)].folds.empty() && block >= late_ &&
           block * kBlock + kBlock <= least(walk_.x_row, walk_.m_row);
  }

  // B_v': rows [u, end) of dv, those that do not exist being zero.
  void make_rows_of_dv(int64_t unit, int64_t u, int64_t end) {
    const T* const dy = dy_ + unit * walk_.p.h.out() * walk_.y_row;
    const auto targets = [&](int64_t u) {
      return u >= 0 && u < walk_.p.h.pooled() ? walk_.vertical.targets(u) : VerticalTaps::List{};
    };
    for (S* dv = dv_[0]; u < end; u += 2, dv += 2 * dv_pitch_) {
      const VerticalTaps::List even = targets(u), odd = targets(u + 1);
      if (UsualRows<F>::are(even, odd)) {
        make_two_rows(even, odd, dy, dv);
      } else {
        sum_row(even, dy, dv);
        sum_row(odd, dy, dv + dv_pitch_);
      }
    }
  }

  void make_two_rows(VerticalTaps::List even, VerticalTaps::List odd, const T* dy, S* dv) {
    constexpr int kEven = UsualRows<F>::kEven, kOdd = UsualRows<F>::kOdd;
    V even_weight[kEven], odd_weight[kOdd];
    for (int k = 0; k < kEven; ++k) even_weight[k] = V::splat(S(even.begin()[k].weight));
    for (int k = 0; k < kOdd; ++k) odd_weight[k] = V::splat(S(odd.begin()[k].weight));
    const int64_t n = walk_.y_row, next = dv_pitch_;
    const T* const first = dy + even.begin()->row * n;
    const auto at = [&](int64_t i, auto load) __attribute__((always_inline)) {
      V low = V::splat(0), high = low, y[kEven];
#pragma GCC unroll 4
      for (int k = 0; k < kEven; ++k) y[k] = load(first + k * n + i);
      prefetch(first + i + kAhead);
#pragma GCC unroll 4
      for (int k = 0; k < kEven; ++k) low = V::fma(even_weight[k], y[k], low);
#pragma GCC unroll 4
      for (int k = 0; k < kOdd; ++k) high = V::fma(odd_weight[k], y[kEven - kOdd + k], high);
      low.store(dv + i), high.store(dv + next + i);
    };
    int64_t i = 0;
    for (; i + L <= n; i += L) at(i, [](const T* p) { return V::load(p); });
    if (i < n) {
      const auto tail = lanes_between<V>(0, n - i);
      at(i, [tail](const T* p) { return V::load_where(p, tail); });
    }
  }

  // Near the borders, which for a small map is nearly everywhere.
  void sum_row(VerticalTaps::List targets, const T* dy, S* dv) {
    const int64_t n = walk_.y_row;
    for (int64_t i = 0; i < n; i += L) {
      const auto lanes = lanes_between<V>(0, n - i);
      V sum = V::splat(0);
      for (const auto& tap : targets) {
        const T* const y = dy + tap.row * n + i;
        sum =
            V::fma(V::splat(S(tap.weight)), i + L <= n ? V::load(y) : V::load_where(y, lanes), sum);
      }
      sum.store(dv + i);
    }
  }

  // Two rows of m, and of dx those that have all they get after these.
  struct Rows {
    const S* dv[2];
    const uint8_t* code[2];
    int64_t plane[2];  // from plane to plane
    T* dx[2];
    S* begun;
    int64_t columns;              // of dx
    int64_t even_from, odd_from;  // columns of dv for the even and the odd taps
    bool swaps;                   // whether even columns of m are odd ones with the padding
    bool stream;
  };

  // Copies what two rows of m have as their codes, if behind it more would be read than there is.
  void keep_from_end(Rows& rows) {
    for (int e = 0; e < 2; ++e) {
      const uint8_t*& code = rows.code[e];
      if (end_of_codes_ - code >= code_reach_) continue;
      uint8_t* const copy = last_codes_[e * walk_.code_bits];
      for (int b = 0; b < walk_.code_bits; ++b)
        std::memcpy(copy + b * last_codes_.stride(), code + b * plane_, size_t(code_row_));
      code = copy, rows.plane[e] = last_codes_.stride();
    }
  }

  // Sums of a block, for each row of dx that two rows of m reach.
  struct Sums {
    V even[K + 1], odd[K + 1];
  };

  // Rows [u, end) of m, two at a time.
  template <bool kRelu, bool kLate>
  __attribute__((noinline)) void go_along(int64_t unit, int64_t u, int64_t end, int64_t x0,
                                          int64_t x1, T* dx) {
    V taps[F];
#pragma GCC unroll 8
    for (int b = 0; b < F; ++b) taps[b] = V::splat(walk_.taps_w[b]);
    const int64_t inner_begin = inner_begin_, inner_end = inner_end_, blocks = blocks_;
    const Edge* const edges = edges_.data();
    const V zero = V::splat(0);
    Rows rows;
    rows.begun = begun_[0], rows.columns = walk_.x_row;
    rows.odd_from = walk_.p.w.before / 2, rows.swaps = walk_.p.w.before % 2 != 0;
    rows.even_from = rows.odd_from + rows.swaps;
    rows.stream = walk_.stream_dx;
    const S* dv = dv_[0];
    const int64_t last_row = walk_.p.h.pooled() - 1;
    const int64_t code_row = code_row_, code_reach = code_reach_;
    const uint8_t* const codes = codes_ + code_row_start(walk_.p, unit, 0, 0);
    dx += unit * walk_.p.h.size * walk_.x_row;
    for (; u < end; u += 2, dv += 2 * dv_pitch_) {
      for (int e = 0; e < 2; ++e) {
        const int64_t x = u + e - walk_.p.h.pad;
        rows.dv[e] = dv + e * dv_pitch_;
        rows.dx[e] = x >= x0 && x < x1 ? dx + x * walk_.x_row : spare_[0];
        // If a row does not exist, those of another.
        rows.code[e] = codes + most(0, least(u + e, last_row)) * code_row;
        rows.plane[e] = plane_;
      }
      if (end_of_codes_ - rows.code[1] < code_reach) keep_from_end(rows);
      Sums carried, held;
#pragma GCC unroll 4
      for (int r = 0; r <= K; ++r) {
        if (K > 1) carried.even[r] = zero;
        if (K > 2) carried.odd[r] = zero;
        if (kLate && r < 2) held.even[r] = held.odd[r] = zero;
      }
      for (int64_t j = 0; j < blocks; ++j) {
        if (j >= inner_begin && j < inner_end)
          make_block<kRelu, kLate>(rows, j, taps, carried, held, nullptr);
        else make_block<kRelu, kLate>(rows, j, taps, carried, held, edges + j);
      }
      if constexpr (kLate) {
        for (int r = 0; r < 2; ++r)
          put<false>(held.odd[r], V::template join<L - 1>(held.even[r], zero), rows, r, blocks - 1);
      }
    }
  }

  // held, if kLate: the last block of rows of dx, which waits for this one.
  template <bool kRelu, bool kLate, class E>
  __attribute__((always_inline)) static void make_block(const Rows& rows, int64_t j, const V* taps,
                                                        Sums& carried, Sums& held, const E edge) {
    constexpr bool kInner = std::is_same_v<E, std::nullptr_t>;
    const V zero = V::splat(0);
    V dm[2][2];  // rows of windows, even and odd columns
#pragma GCC unroll 2
    for (int e = 0; e < 2; ++e) {  // B_h'
      const S* const dv = rows.dv[e] + j * L;
      V sum[2] = {zero, zero};
#pragma GCC unroll 8
      for (int b = 0; b < F; ++b)
        sum[b % 2] = V::fma(taps[b], V::load(dv + (b % 2 ? rows.odd_from : rows.even_from) - b / 2),
                            sum[b % 2]);
      if (rows.swaps) dm[e][0] = sum[1], dm[e][1] = sum[0];
      else dm[e][0] = sum[0], dm[e][1] = sum[1];
    }
    if constexpr (!kInner) heed(*edge, rows, dm);

    V even[K + 1], odd[K + 1], next_even[K + 1], next_odd[K + 1];
    S* const begun = rows.begun + j * kBegun;
    const auto finish = [&](int r) __attribute__((always_inline)) {
      if constexpr (K > 1) {
        even[r] = V::add(even[r], V::template join<1>(carried.even[r], next_even[r]));
        carried.even[r] = next_even[r];
      }
      if constexpr (K > 2) {
        odd[r] = V::add(odd[r], V::template join<1>(carried.odd[r], next_odd[r]));
        carried.odd[r] = next_odd[r];
      }
      if (r >= 2) {
        even[r].store(begun + (r - 2) * kBlock);
        odd[r].store(begun + (r - 2) * kBlock + L);
      } else if (kLate) {
        const V second = V::template join<L - 1>(held.even[r], even[r]);
        if (kInner || j > 0) put<kInner>(held.odd[r], second, rows, r, j - 1);
        held.even[r] = even[r], held.odd[r] = odd[r];
      } else {
        put<kInner>(even[r], odd[r], rows, r, j);
      }
    };
#pragma GCC unroll 2
    for (int e = 0; e < 2; ++e) {
      Routing<V, K> of_even, of_odd;
      const auto code = [&](int b) __attribute__((always_inline)) {
        return rows.code[e] + j * (kBlock / 8) + b * rows.plane[e];
      };
      of_even.find(dm[e][0], kRelu, [&](int b) __attribute__((always_inline)) {
        return V::template mask_of_pairs<0>(code(b));
      });
      of_odd.find(dm[e][1], kRelu, [&](int b) __attribute__((always_inline)) {
        return V::template mask_of_pairs<1>(code(b));
      });
#pragma GCC unroll 3
      for (int w = 0; w < K; ++w) {
        const int r = w + e;
        const bool fresh = e == 0 || w == K - 1, begins = fresh && r >= K - 1;
        if (fresh && !begins) {
          even[r] = V::load(begun + r * kBlock);
          odd[r] = V::load(begun + r * kBlock + L);
        }
        of_even.give(begins, w, 0, even[r]);
        of_odd.give(begins, w, 0, odd[r]);
        if constexpr (K > 1) {
          of_even.give(false, w, 1, odd[r]);
          of_odd.give(fresh, w, 1, next_even[r]);
        }
        if constexpr (K > 2) {
          of_even.give(false, w, 2, next_even[r]);
          of_odd.give(fresh, w, 2, next_odd[r]);
        }
        if (e == 1 || w == 0) finish(r);
      }
    }
  }

  __attribute__((always_inline)) static void heed(const Edge& edge, const Rows& rows, V (*dm)[2]) {
    const V zero = V::splat(0);
    V even = dm[0][0], odd = dm[0][1], even_below = dm[1][0], odd_below = dm[1][1];
    for (const auto& fold : edge.folds) {
      const Mask lane = V::to_mask(fold.lane);
      const V here = V::splat(fold.weight * rows.dv[0][fold.from]);
      const V below = V::splat(fold.weight * rows.dv[1][fold.from]);
      if (fold.odd) {
        odd = V::add_where(lane, odd, here);
        odd_below = V::add_where(lane, odd_below, below);
      } else {
        even = V::add_where(lane, even, here);
        even_below = V::add_where(lane, even_below, below);
      }
    }
    const Mask exist[2] = {V::to_mask(edge.exists[0]), V::to_mask(edge.exists[1])};
    dm[0][0] = V::blend(exist[0], even, zero), dm[1][0] = V::blend(exist[0], even_below, zero);
    dm[0][1] = V::blend(exist[1], odd, zero), dm[1][1] = V::blend(exist[1], odd_below, zero);
  }

  // Block j of row r of dx.
  template <bool kInner>
  __attribute__((always_inline)) static void put(V even, V odd, const Rows& rows, int r,
                                                 int64_t j) {
    T* const dx = rows.dx[r] + j * kBlock;
    const int64_t n = kInner ? kBlock : rows.columns - j * kBlock;
    if (!rows.stream)  // then memory's lines are written in part, and have to be there
      for (int64_t i = 0; i < kBlock; i += 64 / int64_t(sizeof(T))) prefetch(dx + kAhead + i);
    if constexpr (requires { V::store_pairs(even, odd, dx); }) {
      if (n >= kBlock)
        return rows.stream ? V::stream_pairs(even, odd, dx) : V::store_pairs(even, odd, dx);
    }
    V low, high;
    V::interleave(even, odd, low, high);
    if (n >= kBlock && rows.stream) return low.stream(dx), high.stream(dx + L);
    if (n >= kBlock) return low.store(dx), high.store(dx + L);
    if (n > 0) put_first(low, dx, n, rows.stream);
    if (n > L) put_first(high, dx + L, n - L, rows.stream);
  }
  static void put_first(V v, T* dx, int64_t n, bool stream) {
    if (stream) v.stream_first(dx, int(least(n, L)));
    else if (n >= L) v.store(dx);
    else v.store_first(dx, int(n));
  }

  const Walk<V>& walk_;
  const T* dy_;
  const uint8_t *codes_, *end_of_codes_;
  bool late_;  // whether what is finished waits
  int64_t blocks_, inner_begin_ = 0, inner_end_ = 0;
  int64_t band_;  // rows of m at a time, an even number
  int64_t dv_pitch_;
  Scratch<S> dv_;
  // Bytes of a row of codes, to the next plane, and from a row on to the end of what it needs.
  int64_t code_row_, plane_, code_reach_;
  Bits last_codes_;          // copies, behind which more can be read
  Scratch<S> begun_;         // the rows of dx that are begun, block after block
  Scratch<T> spare_;         // a row of dx for those that others make
  std::vector<Edge> edges_;  // of all blocks
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
