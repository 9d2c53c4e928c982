// FusedRowsBack: dx = S_h' S_v' B_h' B_v' dy in one pass, for contiguous maps.
//
// For a band of rows of m, it computes the rows of dv = B_v' dy. Then it sweeps along two rows of m
// at a time, one block of columns after the other (Block). One vector has the even columns of a
// block, another the odd ones. Both come from the same few columns of dv, and the codes give both
// masks directly: every second bit. So only finished values are interleaved. The gradients of
// windows never leave the registers. What a block adds to the next one moves by a lane. Partial
// rows of dx, to which the rows of m below still add, are kept.
//
// In this file the columns of dx are counted like those of m: candidate c of column v is column
// v + c. If the max has a column of padding, that is column 0. Finished values are then delayed by
// one block, so that dx is written in whole vectors.
#pragma once

#include "cpu/kernels/sweep.h"
#include "cpu/stages/routing.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// Whether FusedRowsBack serves a call. Each row handles every padding column, so these must be few.
inline bool fuses_nchw(const Params& p) {
  constexpr int64_t kMaxPadding = 8;
  return p.pixel_stride() == 1 && p.w.stride == 2 && p.w.pad <= 1 && p.w.before <= kMaxPadding &&
         p.w.after <= kMaxPadding;
}

template <class V, class T, int K, int F>  // the window is K x K; F taps along a row
class FusedRowsBack {
 public:
  using S = typename V::Scalar;
  using Mask = typename V::Mask;

  FusedRowsBack(const Sweep<V>& sweep, const T* dy, const uint8_t* codes)
      : sweep_(sweep),
        dy_(dy),
        codes_(codes),
        end_of_codes_(codes + sweep.p.batch * code_bytes_per_image(sweep.p)),
        delayed_(sweep.p.w.pad != 0),
        blocks_((sweep.x_row + delayed_ + kBlock - 1) / kBlock),
        band_(min(max(rows_of_band(kBandOfDm, sweep.pitch), kRowsOfDm), sweep.p.h.pooled() + 3) /
              2 * 2),
        dv_pitch_((sweep.y_row + kGap + L - 1) / L * L),
        dv_(1, band_ * dv_pitch_, kGap),
        code_row_(sweep.p.linear() ? 0 : code_row_bytes(sweep.p)),
        bitplane_(sweep.p.h.pooled() * code_row_),
        code_reach_(sweep.p.linear() ? 0
                                     : (sweep.code_bits - 1) * bitplane_ + blocks_ * kBlock / 8),
        last_codes_(2 * sweep.code_bits, blocks_ * kBlock),
        partial_(1, blocks_ * kPartial, 0),
        discard_(1, sweep.x_row, 0) {
    const auto folds = folds_of(sweep.p.w, sweep.p.border, sweep.taps_w);
    for (int64_t block = 0; block < blocks_; ++block) edges_.push_back(edge_of(block, folds));
    while (interior_begin_ < blocks_ && !is_interior(interior_begin_)) ++interior_begin_;
    for (interior_end_ = interior_begin_; interior_end_ < blocks_ && is_interior(interior_end_);)
      ++interior_end_;
  }

  // Computes rows [x0, x1) of dx of a plane.
  void make(int64_t plane, int64_t x0, int64_t x1, T* dx) {
    const Params& p = sweep_.p;
    std::memset((void*)partial_[0], 0, sizeof(S) * size_t(blocks_ * kPartial));
    // The first row of m that exists and reaches row x0 of dx, counted in padded m.
    const int64_t reach = max(x0 + p.h.pad - K + 1, 0) + p.h.before;
    const int64_t end = x1 + p.h.pad;
    // The two rows of a pair are always an even row of padded m and the next one, wherever x0 is.
    // So the order of the sums does not depend on x0.
    for (int64_t u = 2 * (reach >> 1) - p.h.before, next; u < end; u = next) {
      next = min(u + band_, end);
      make_rows_of_dv(plane, u, next);
      with_truth(p.relu, [&](auto relu) {
        // A window of one element has no padding, so nothing is delayed.
        if (K > 1 && delayed_) sweep_columns<relu(), (K > 1)>(plane, u, next, x0, x1, dx);
        else sweep_columns<relu(), false>(plane, u, next, x0, x1, dx);
      });
    }
  }

 private:
  static constexpr int L = V::kLanes;
  static constexpr int64_t kBlock = 2 * L;
  static constexpr int64_t kPartial = (K - 1) * kBlock;  // partial sums of a block
  static constexpr int64_t kGap = 2 * L;  // zeros between rows of dv: more than are read

  // What a padding column gives back to one lane of a block; see Fold.
  struct LaneFold {
    int64_t from;
    S weight;
    unsigned lane;  // as a bit of LaneBits
    bool odd;       // whether it is a lane of the odd columns
  };

  // What apply_edge needs for a block at an end of a row.
  struct Edge {
    typename V::LaneBits exists[2];  // which windows exist, in even and in odd columns
    std::vector<LaneFold> folds;
  };

  Edge edge_of(int64_t block, const std::vector<Fold<S>>& folds) const {
    Edge edge;
    for (int f = 0; f < 2; ++f)
      edge.exists[f] = lanes_between<V>(0, (sweep_.m_row - block * kBlock - f + 1) >> 1);
    for (const auto& fold : folds) {
      const int64_t v = fold.to - block * kBlock;
      if (v >= 0 && v < kBlock)
        edge.folds.push_back({fold.from, fold.weight, 1u << (v / 2), v % 2 != 0});
    }
    return edge;
  }

  // Whether a block does not need apply_edge: all its windows and all columns of dx that it
  // finishes exist, and no padding adds to them.
  bool is_interior(int64_t block) const {
    return edges_[size_t(block)].folds.empty() && block >= delayed_ &&
           block * kBlock + kBlock <= min(sweep_.x_row, sweep_.m_row);
  }

  // B_v': computes rows [u, end) of dv. Rows that do not exist are zero.
  void make_rows_of_dv(int64_t plane, int64_t u, int64_t end) {
    const T* const dy = dy_ + plane * sweep_.p.h.out() * sweep_.y_row;
    const auto outputs = [&](int64_t u) {
      return u >= 0 && u < sweep_.p.h.pooled() ? sweep_.vertical.outputs(u) : VerticalTaps::List{};
    };
    for (S* dv = dv_[0]; u < end; u += 2, dv += 2 * dv_pitch_) {
      const VerticalTaps::List even = outputs(u), odd = outputs(u + 1);
      if (InteriorRows<F>::are(even, odd)) {
        make_two_rows(even, odd, dy, dv);
      } else {
        sum_row(even, dy, dv);
        sum_row(odd, dy, dv + dv_pitch_);
      }
    }
  }

  void make_two_rows(VerticalTaps::List even, VerticalTaps::List odd, const T* dy, S* dv) {
    constexpr int kEven = InteriorRows<F>::kEven, kOdd = InteriorRows<F>::kOdd;
    V even_weight[kEven], odd_weight[kOdd];
    for (int k = 0; k < kEven; ++k) even_weight[k] = V::set1(S(even.begin()[k].weight));
    for (int k = 0; k < kOdd; ++k) odd_weight[k] = V::set1(S(odd.begin()[k].weight));
    const int64_t n = sweep_.y_row, next = dv_pitch_;
    const T* const first = dy + even.begin()->row * n;
    const auto at = [&](int64_t i, auto load) __attribute__((always_inline)) {
      V low = V::set1(0), high = low, y[kEven];
#pragma GCC unroll 4
      for (int k = 0; k < kEven; ++k) y[k] = load(first + k * n + i);
      prefetch(first + i + kPrefetchAhead);
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
      at(i, [tail](const T* p) { return V::load_masked(p, tail); });
    }
  }

  // One row of dv near the borders. In a small map, that is nearly every row.
  void sum_row(VerticalTaps::List outputs, const T* dy, S* dv) {
    const int64_t n = sweep_.y_row;
    for (int64_t i = 0; i < n; i += L) {
      const auto lanes = lanes_between<V>(0, n - i);
      V sum = V::set1(0);
      for (const auto& tap : outputs) {
        const T* const y = dy + tap.row * n + i;
        sum =
            V::fma(V::set1(S(tap.weight)), i + L <= n ? V::load(y) : V::load_masked(y, lanes), sum);
      }
      sum.store(dv + i);
    }
  }

  // Two rows of m, and the two rows of dx that are complete after them.
  struct Rows {
    const S* dv[2];
    const uint8_t* code[2];
    int64_t bitplane[2];  // bytes from one bit plane to the next
    T* dx[2];
    S* partial;
    int64_t columns;              // of dx
    int64_t even_from, odd_from;  // first columns of dv for the even and the odd taps
    bool swaps;                   // whether even columns of m are odd columns of padded m
    bool stream;
  };

  // Copies the codes of two rows of m if the sweep would read beyond the end of all codes. The
  // copies have room behind them.
  void keep_from_end(Rows& rows) {
    for (int e = 0; e < 2; ++e) {
      const uint8_t*& code = rows.code[e];
      if (end_of_codes_ - code >= code_reach_) continue;
      uint8_t* const copy = last_codes_[e * sweep_.code_bits];
      for (int b = 0; b < sweep_.code_bits; ++b)
        std::memcpy(copy + b * last_codes_.stride(), code + b * bitplane_, size_t(code_row_));
      code = copy, rows.bitplane[e] = last_codes_.stride();
    }
  }

  // The sums of a block, for each of the K + 1 rows of dx that two rows of m reach.
  struct Sums {
    V even[K + 1], odd[K + 1];
  };

  // Sweeps along rows [u, end) of m, two at a time.
  template <bool kRelu, bool kDelayed>
  __attribute__((noinline)) void sweep_columns(int64_t plane, int64_t u, int64_t end, int64_t x0,
                                               int64_t x1, T* dx) {
    V taps[F];
#pragma GCC unroll 8
    for (int b = 0; b < F; ++b) taps[b] = V::set1(sweep_.taps_w[b]);
    const int64_t interior_begin = interior_begin_, interior_end = interior_end_, blocks = blocks_;
    const Edge* const edges = edges_.data();
    const V zero = V::set1(0);
    Rows rows;
    rows.partial = partial_[0], rows.columns = sweep_.x_row;
    rows.odd_from = sweep_.p.w.before / 2, rows.swaps = sweep_.p.w.before % 2 != 0;
    rows.even_from = rows.odd_from + rows.swaps;
    rows.stream = sweep_.stream_dx;
    const S* dv = dv_[0];
    const int64_t last_row = sweep_.p.h.pooled() - 1;
    const int64_t code_row = code_row_, code_reach = code_reach_;
    const uint8_t* const codes = codes_ + code_row_start(sweep_.p, plane, 0, 0);
    dx += plane * sweep_.p.h.size * sweep_.x_row;
    for (; u < end; u += 2, dv += 2 * dv_pitch_) {
      for (int e = 0; e < 2; ++e) {
        const int64_t x = u + e - sweep_.p.h.pad;
        rows.dv[e] = dv + e * dv_pitch_;
        rows.dx[e] = x >= x0 && x < x1 ? dx + x * sweep_.x_row : discard_[0];
        // A row that does not exist has dv = 0, so any codes will do.
        rows.code[e] = codes + max(0, min(u + e, last_row)) * code_row;
        rows.bitplane[e] = bitplane_;
      }
      if (end_of_codes_ - rows.code[1] < code_reach) keep_from_end(rows);
      Sums carried, held;
#pragma GCC unroll 4
      for (int r = 0; r <= K; ++r) {
        if (K > 1) carried.even[r] = zero;
        if (K > 2) carried.odd[r] = zero;
        if (kDelayed && r < 2) held.even[r] = held.odd[r] = zero;
      }
      for (int64_t j = 0; j < blocks; ++j) {
        if (j >= interior_begin && j < interior_end)
          Block<kRelu, kDelayed, true>(rows, j, carried, held).make(taps, nullptr);
        else Block<kRelu, kDelayed, false>(rows, j, carried, held).make(taps, edges + j);
      }
      if constexpr (kDelayed) {
        for (int r = 0; r < 2; ++r)
          put<false>(held.odd[r], V::template join<L - 1>(held.even[r], zero), rows, r, blocks - 1);
      }
    }
  }

  // Computes the gradients of the windows of one block, and adds them to the rows of dx that these
  // reach. The sums for columns of the next block are in next_; the next block gets them as
  // `carried`.
  template <bool kRelu, bool kDelayed, bool kInterior>
  class Block {
   public:
    // held: with kDelayed, the finished values of the block before, which are not written yet.
    FASTBLUR_INLINE Block(const Rows& rows, int64_t j, Sums& carried, Sums& held)
        : rows_(rows),
          j_(j),
          carried_(carried),
          held_(held),
          partial_(rows.partial + j * kPartial) {}

    FASTBLUR_INLINE void make(const V* taps, const Edge* edge) {
      V dm[2][2];  // dm[e]: even and odd columns of row e of the windows
      blur_transposed(taps, dm);
      if constexpr (!kInterior) apply_edge(*edge, rows_, dm);
#pragma GCC unroll 2
      for (int e = 0; e < 2; ++e) route(e, dm[e]);
    }

   private:
    FASTBLUR_INLINE void blur_transposed(const V* taps, V (*dm)[2]) const {  // B_h'
#pragma GCC unroll 2
      for (int e = 0; e < 2; ++e) {
        const S* const dv = rows_.dv[e] + j_ * L;
        V sum[2] = {V::set1(0), V::set1(0)};
#pragma GCC unroll 8
        for (int b = 0; b < F; ++b)
          sum[b % 2] =
              V::fma(taps[b], V::load(dv + (b % 2 ? rows_.odd_from : rows_.even_from) - b / 2),
                     sum[b % 2]);
        if (rows_.swaps) dm[e][0] = sum[1], dm[e][1] = sum[0];
        else dm[e][0] = sum[0], dm[e][1] = sum[1];
      }
    }

    // S_h' S_v' of row e of the windows.
    FASTBLUR_INLINE void route(int e, const V* dm) {
      Routing<V, K> of_even, of_odd;
      const auto code = [&](int b) __attribute__((always_inline)) {
        return rows_.code[e] + j_ * (kBlock / 8) + b * rows_.bitplane[e];
      };
      of_even.decode(dm[0], kRelu, [&](int b) __attribute__((always_inline)) {
        return V::template mask_of_pairs<0>(code(b));
      });
      of_odd.decode(dm[1], kRelu, [&](int b) __attribute__((always_inline)) {
        return V::template mask_of_pairs<1>(code(b));
      });
#pragma GCC unroll 3
      for (int w = 0; w < K; ++w) {
        // Row r of dx is fresh if nothing of this block has reached it yet.
        const int r = w + e;
        const bool fresh = e == 0 || w == K - 1, begins = fresh && r >= K - 1;
        if (fresh && !begins) {
          here_.even[r] = V::load(partial_ + r * kBlock);
          here_.odd[r] = V::load(partial_ + r * kBlock + L);
        }
        of_even.accumulate(begins, w, 0, here_.even[r]);
        of_odd.accumulate(begins, w, 0, here_.odd[r]);
        if constexpr (K > 1) {
          of_even.accumulate(false, w, 1, here_.odd[r]);
          of_odd.accumulate(fresh, w, 1, next_.even[r]);
        }
        if constexpr (K > 2) {
          of_even.accumulate(false, w, 2, next_.even[r]);
          of_odd.accumulate(fresh, w, 2, next_.odd[r]);
        }
        if (e == 1 || w == 0) finish(r);
      }
    }

    // The two rows of windows add no more to row r: it goes to dx or, if partial, to partial_.
    FASTBLUR_INLINE void finish(int r) {
      V &even = here_.even[r], &odd = here_.odd[r];
      if constexpr (K > 1) {
        even = V::add(even, V::template join<1>(carried_.even[r], next_.even[r]));
        carried_.even[r] = next_.even[r];
      }
      if constexpr (K > 2) {
        odd = V::add(odd, V::template join<1>(carried_.odd[r], next_.odd[r]));
        carried_.odd[r] = next_.odd[r];
      }
      if (r >= 2) {
        even.store(partial_ + (r - 2) * kBlock);
        odd.store(partial_ + (r - 2) * kBlock + L);
      } else if (kDelayed) {
        const V second = V::template join<L - 1>(held_.even[r], even);
        if (kInterior || j_ > 0) put<kInterior>(held_.odd[r], second, rows_, r, j_ - 1);
        held_.even[r] = even, held_.odd[r] = odd;
      } else {
        put<kInterior>(even, odd, rows_, r, j_);
      }
    }

    const Rows& rows_;
    const int64_t j_;
    Sums &carried_, &held_, here_, next_;
    S* const partial_;
  };

  __attribute__((always_inline)) static void apply_edge(const Edge& edge, const Rows& rows,
                                                        V (*dm)[2]) {
    const V zero = V::set1(0);
    V even = dm[0][0], odd = dm[0][1], even_below = dm[1][0], odd_below = dm[1][1];
    for (const auto& fold : edge.folds) {
      const Mask lane = V::to_mask(fold.lane);
      const V here = V::set1(fold.weight * rows.dv[0][fold.from]);
      const V below = V::set1(fold.weight * rows.dv[1][fold.from]);
      if (fold.odd) {
        odd = V::add_where(lane, odd, here);
        odd_below = V::add_where(lane, odd_below, below);
      } else {
        even = V::add_where(lane, even, here);
        even_below = V::add_where(lane, even_below, below);
      }
    }
    const Mask exist[2] = {V::to_mask(edge.exists[0]), V::to_mask(edge.exists[1])};
    dm[0][0] = V::if_then_else(exist[0], even, zero),
    dm[1][0] = V::if_then_else(exist[0], even_below, zero);
    dm[0][1] = V::if_then_else(exist[1], odd, zero),
    dm[1][1] = V::if_then_else(exist[1], odd_below, zero);
  }

  // Writes block j of row r of dx.
  template <bool kInterior>
  __attribute__((always_inline)) static void put(V even, V odd, const Rows& rows, int r,
                                                 int64_t j) {
    T* const dx = rows.dx[r] + j * kBlock;
    const int64_t n = kInterior ? kBlock : rows.columns - j * kBlock;
    if (!rows.stream)  // a cache line that is written in part must be there first
      for (int64_t i = 0; i < kBlock; i += 64 / int64_t(sizeof(T)))
        prefetch(dx + kPrefetchAhead + i);
    if constexpr (requires { V::store_pairs(even, odd, dx); }) {
      if (n >= kBlock)
        return rows.stream ? V::stream_pairs(even, odd, dx) : V::store_pairs(even, odd, dx);
    }
    V low, high;
    V::interleave(even, odd, low, high);
    if (n >= kBlock && rows.stream) return low.stream(dx), high.stream(dx + L);
    if (n >= kBlock) return low.store(dx), high.store(dx + L);
    if (n > 0) put_n(low, dx, n, rows.stream);
    if (n > L) put_n(high, dx + L, n - L, rows.stream);
  }
  static void put_n(V v, T* dx, int64_t n, bool stream) {
    if (stream) v.stream_n(dx, int(min(n, L)));
    else if (n >= L) v.store(dx);
    else v.store_n(dx, int(n));
  }

  const Sweep<V>& sweep_;
  const T* dy_;
  const uint8_t *codes_, *end_of_codes_;
  bool delayed_;  // whether finished values are written one block later
  int64_t blocks_, interior_begin_ = 0, interior_end_ = 0;
  int64_t band_;  // rows of m in a band, an even number
  int64_t dv_pitch_;
  Scratch<S> dv_;
  // In bytes: the size of a row of codes, the distance to the next bit plane, and how far codes are
  // read from the start of a row on.
  int64_t code_row_, bitplane_, code_reach_;
  Bits last_codes_;          // copies of codes; see keep_from_end
  Scratch<S> partial_;       // partial rows of dx, block after block
  Scratch<T> discard_;       // stands in for rows of dx outside [x0, x1)
  std::vector<Edge> edges_;  // one for each block
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
