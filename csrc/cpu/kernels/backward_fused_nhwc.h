// FusedPixelsBack: dx = S_h' S_v' B_h' B_v' dy in one pass, for channels_last maps.
//
// One vector of channels sweeps along two rows of m (VectorSweep). It computes the gradient of each
// window in registers, and adds it to the element of dx that its code names. The sums of an element
// stay in registers until no later window reaches it. Partial rows of dx, to which the rows of m
// below still add, are kept.
//
// The sweep covers a tile of a few columns, then the next vector of channels follows. The registers
// at the end of a tile go to the carry for the next tile. So dx is written nearly in memory order.
#pragma once

#include "cpu/kernels/sweep.h"
#include "cpu/stages/routing.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// Whether FusedPixelsBack serves a call. Every edge column searches a list of what all padding
// columns add, so these must be few.
template <class V>
bool fuses_nhwc(const Params& p) {
  constexpr int64_t kMaxPadding = 8;
  return p.channels_last && p.channels >= V::kLanes && p.h.stride == 2 && p.w.stride == 2 &&
         p.w.before <= kMaxPadding && p.w.after <= kMaxPadding;
}

template <class V, class T, int K, int F>  // the window is K x K; F taps along a row
class FusedPixelsBack {
 public:
  using S = typename V::Scalar;
  using Mask = typename V::Mask;

  FusedPixelsBack(const Sweep<V>& sweep, const T* dy, const uint8_t* codes, bool stream)
      : sweep_(sweep),
        dy_(dy),
        codes_(codes),
        end_of_codes_(codes + sweep.p.batch * code_bytes_per_image(sweep.p)),
        channels_(sweep.p.channels),
        vectors_((channels_ + L - 1) / L),
        spreads_(channels_ % 8 != 0),
        stream_(stream && kLines && channels_ % L == 0),
        column_bytes_(spreads_ ? vectors_ * L / 8 : channels_ / 8),
        end_of_pairs_((sweep.p.w.size - 1 + sweep.p.w.pad + sweep.p.w.before) / 2 + 1),
        folds_(folds_of(sweep.p.w, sweep.p.border, sweep.taps_w)),
        partial_(vectors_, sweep.p.w.size * (K - 1) * L, 0),
        carry_(vectors_, kCarry * L, 0),
        discard_(1, sweep.x_row, 0),
        row_(1, spreads_ ? code_row_length(sweep.p) : 0),
        spread_(spreads_ ? 2 * sweep.code_bits : 0, 8 * column_bytes_ * sweep.p.w.pooled()) {
    // The first pair has no carry, so interior_begin_ is at least 1.
    while (interior_begin_ < end_of_pairs_ && !is_interior(interior_begin_)) ++interior_begin_;
    for (interior_end_ = interior_begin_; is_interior(interior_end_);) ++interior_end_;
  }

  // Computes rows [x0, x1) of dx of a plane.
  void make(int64_t plane, int64_t x0, int64_t x1, T* dx) {
    const Params& p = sweep_.p;
    for (int64_t k = 0; K > 1 && k < vectors_; ++k)
      std::memset((void*)partial_[k], 0, sizeof(S) * size_t(p.w.size * (K - 1) * L));
    // The first row of m that exists and reaches row x0 of dx, counted in padded m.
    const int64_t reach = max(x0 + p.h.pad - K + 1, 0) + p.h.before;
    // The two rows of a pair are always an even row of padded m and the next one, wherever x0 is.
    // So the order of the sums does not depend on x0.
    for (int64_t u = 2 * (reach >> 1) - p.h.before; u - p.h.pad < x1; u += 2) {
      Rows rows;
      rows.dy = dy_ + plane * p.h.out() * sweep_.y_row;
      for (int e = 0; e < 2; ++e) {
        const int64_t x = u + e - p.h.pad;
        rows.dx[e] = x >= x0 && x < x1 ? dx + (plane * p.h.size + x) * sweep_.x_row : discard_[0];
        const bool exists = u + e >= 0 && u + e < p.h.pooled();
        rows.outputs[e] = exists ? sweep_.vertical.outputs(u + e) : VerticalTaps::List{};
        rows.codes[e] = p.linear() ? row_[0] : codes_of(plane, exists ? u + e : 0, e);
      }
      if (InteriorRows<F>::are(rows.outputs[0], rows.outputs[1])) sweep_all_columns<true>(rows);
      else sweep_all_columns<false>(rows);
    }
  }

 private:
  static constexpr int L = V::kLanes;
  static constexpr int kHistory = (F - 1) / 2;  // earlier columns of dv that a column of dm reads
  static constexpr int kReached = K + 1;        // rows of dx that two rows of m reach
  static constexpr int kCarry = kReached * (K - 1) + 2 * kHistory;
  static constexpr int kEven = InteriorRows<F>::kEven, kOdd = InteriorRows<F>::kOdd;
  static constexpr int64_t kPairsOfTile = 8;
  // Only whole cache lines bypass the caches, because the other half of a line is not written next.
  static constexpr bool kLines = L * sizeof(T) % 64 == 0;

  // Two rows of m.
  struct Rows {
    T* dx[2];  // the rows that are complete after these rows of m
    VerticalTaps::List outputs[2];
    const T* dy;  // the plane
    const uint8_t* codes[2];
  };

  // Columns of padded m are processed in pairs: 2 t and 2 t + 1. Returns whether those of t and the
  // columns of dx that they reach exist, and no padding adds to them.
  bool is_interior(int64_t t) const {
    const Axis& w = sweep_.p.w;
    const int64_t v = 2 * t - w.before;
    for (const auto& fold : folds_)
      if (fold.to == v || fold.to == v + 1) return false;
    return t < w.out() && v >= max(0, w.pad) && v + 1 < min(w.pooled(), w.size + w.pad - K + 1);
  }

  // The first channel of vector k. If the channels are not whole vectors, the last vector overlaps
  // the one before, and both write the same values to dx there.
  int64_t channel_of(int64_t k) const { return min(k * L, channels_ - L); }
  int64_t code_of(int64_t k) const { return (spreads_ ? k * L : channel_of(k)) / 8; }

  // The codes of row u of m, which is row e of the two. If a column is not whole bytes, the codes
  // are copied to spread_, where the codes of each vector are whole bytes.
  const uint8_t* codes_of(int64_t plane, int64_t u, int e) {
    const Params& p = sweep_.p;
    const uint8_t* const codes = codes_ + code_row_start(p, plane, 0, u);
    if (!spreads_) return codes;
    const int64_t bytes = code_row_bytes(p), columns = p.w.pooled(), to_bytes = column_bytes_;
    const int64_t channels = channels_, words = ((vectors_ - 1) * L + 63) / 64;
    for (int b = 0; b < sweep_.code_bits; ++b) {
      const uint8_t* row = codes + b * p.h.pooled() * bytes;
      if (end_of_codes_ - row < bytes + 16)  // the loop reads beyond the row
        row = static_cast<const uint8_t*>(std::memcpy(row_[0], row, size_t(bytes)));
      uint8_t* column = spread_[e * sweep_.code_bits + b];
      for (int64_t bit = 0; bit < columns * channels; bit += channels, column += to_bytes) {
        for (int64_t w = 0; w < words; ++w) put_word(column, w, bits_at(row, bit + 64 * w));
        put_lanes<V>(column, (vectors_ - 1) * L,
                     typename V::LaneBits(bits_at(row, bit + channels - L)));
      }
    }
    return spread_[e * sweep_.code_bits];
  }
  int64_t bitplane_bytes() const {
    return spreads_ ? spread_.stride() : sweep_.p.h.pooled() * code_row_bytes(sweep_.p);
  }

  // Prefetches the codes of the next two rows at the columns of a tile.
  void prefetch_codes(const Rows& rows, int64_t t, int64_t end) const {
    if (spreads_) return;
    const int64_t column = 2 * t - sweep_.p.w.before, bytes = 2 * (end - t) * column_bytes_;
    for (int b = 0; b < sweep_.code_bits; ++b) {
      for (const uint8_t* row : rows.codes) {
        row += b * bitplane_bytes() + 2 * code_row_bytes(sweep_.p) + column * column_bytes_;
        for (int64_t i = 0; i < bytes; i += 64) prefetch(row + i);
      }
    }
  }

  template <bool kInteriorRows>
  void sweep_all_columns(const Rows& rows) {
    sweep_columns<kInteriorRows, false>(rows, 0, interior_begin_);
    for (int64_t t = interior_begin_, end; t < interior_end_; t = end) {
      end = min(interior_end_, t + kPairsOfTile);
      prefetch_codes(rows, t, end);
      if (!kInteriorRows) sweep_columns<false, false>(rows, t, end);
      else if (sweep_.p.relu) sweep_columns<kInteriorRows, kInteriorRows>(rows, t, end);
      else sweep_columns<kInteriorRows, kInteriorRows, false>(rows, t, end);
    }
    sweep_columns<kInteriorRows, false>(rows, interior_end_, end_of_pairs_);
  }

  // What a vector of channels keeps in registers from column to column.
  struct Sums {
    static constexpr int kRoom = kHistory ? kHistory : 1;
    V of[kReached][K];  // of[r][c]: row r of dx, column c of those that a window reaches
    V dv[2][kRoom];     // the last columns of B_v' dy

    // Calls f(vector, index) for each vector that the next window needs.
    template <class Function>
    __attribute__((always_inline)) void each(Function f) {
#pragma GCC unroll 4
      for (int r = 0; r < kReached; ++r)
#pragma GCC unroll 4
        for (int c = 0; c + 1 < K; ++c) f(of[r][c], r * (K - 1) + c);
#pragma GCC unroll 4
      for (int i = 0; i < 2 * kHistory; ++i) f(dv[i / kRoom][i % kRoom], kReached * (K - 1) + i);
    }
  };

  // Sweeps all vectors of channels along pairs of columns [begin, end). kInteriorRows: see
  // InteriorRows; kInterior: see is_interior; kMayRelu is false if there is no ReLU.
  template <bool kInteriorRows, bool kInterior, bool kMayRelu = true>
  __attribute__((noinline)) void sweep_columns(const Rows& rows, int64_t begin, int64_t end) {
    VectorSweep<kInteriorRows, kInterior, kMayRelu> vector(*this, rows);
    for (int64_t k = 0; k < vectors_; ++k) {
      vector.start(k, begin);
      for (int64_t t = begin; t < end; ++t) vector.step(t);
      vector.carry(k);
    }
  }

  // Sweeps one vector of channels along two rows of m.
  template <bool kInteriorRows, bool kInterior, bool kMayRelu>
  class VectorSweep {
   public:
    FASTBLUR_INLINE VectorSweep(FusedPixelsBack& kernel, const Rows& rows)
        : kernel_(kernel),
          rows_(rows),
          before_(kernel.sweep_.p.w.before),
          pad_(kernel.sweep_.p.w.pad),
          x_columns_(kernel.sweep_.p.w.size),
          m_columns_(kernel.sweep_.p.w.pooled()),
          y_columns_(kernel.sweep_.p.w.out()),
          channels_(kernel.channels_),
          column_bytes_(kernel.column_bytes_),
          bitplane_(kernel.bitplane_bytes()),
          y_row_(kernel.sweep_.y_row),
          next_tile_(2 * kPairsOfTile * channels_),
          stream_(kernel.stream_),
          relu_(kMayRelu && kernel.sweep_.p.relu),
          first_dy_(rows.dy + (kInteriorRows ? rows.outputs[0].begin()->row * y_row_ : 0)) {
#pragma GCC unroll 8
      for (int b = 0; b < F; ++b) taps_[b] = V::set1(kernel.sweep_.taps_w[b]);
#pragma GCC unroll 8
      for (int k = 0; kInteriorRows && k < kEven; ++k)
        even_[k] = V::set1(S(rows.outputs[0].begin()[k].weight));
#pragma GCC unroll 8
      for (int k = 0; kInteriorRows && k < kOdd; ++k)
        odd_[k] = V::set1(S(rows.outputs[1].begin()[k].weight));
    }

    // Moves to vector k and pair `begin`. Loads the carry, or at the first pair the partial sums.
    FASTBLUR_INLINE void start(int64_t k, int64_t begin) {
      const int64_t first = 2 * begin - before_, first_x = first - pad_;
      const int64_t code = kernel_.code_of(k);
      i_ = kernel_.channel_of(k);
      partial_ = kernel_.partial_[k] + first_x * (K - 1) * L;
      dy_ = first_dy_ + begin * channels_ + i_;
      for (int e = 0; e < 2; ++e) {
        to_[e] = rows_.dx[e] + first_x * channels_ + i_;
        code_[e] = rows_.codes[e] + first * column_bytes_ + code;
      }
      if (kInterior || begin > 0) {
        const S* const from = kernel_.carry_[k];
        sums_.each([&](V& v, int at) FASTBLUR_INLINE { v = V::load(from + at * L); });
        return;
      }
      sums_.each([&](V& v, int) { v = V::set1(0); });
      for (int c = 0; c < K - 1; ++c)
        for (int r = 0; r < K - 1; ++r)
          if (first_x + c >= 0 && first_x + c < x_columns_)
            sums_.of[r][c] = V::load(partial_ + (c * (K - 1) + r) * L);
    }
    FASTBLUR_INLINE void carry(int64_t k) {
      S* const to = kernel_.carry_[k];
      sums_.each([&](V& v, int at) FASTBLUR_INLINE { v.store(to + at * L); });
    }

    // Processes columns 2 t and 2 t + 1 of padded m.
    FASTBLUR_INLINE void step(int64_t t) {
      V dm[2][2];
      blur(t, dm);
      dy_ += channels_;
#pragma GCC unroll 2
      for (int c = 0; c < 2; ++c) {
        const int64_t v = 2 * t - before_ + c, x = v - pad_;
        load_partial(x + K - 1);
        if (!kInterior) apply_edge(v, dm[0][c], dm[1][c]);
        if (kInterior || (v >= 0 && v < m_columns_)) {
          route(dm[0][c], code_[0], sums_.of);
          route(dm[1][c], code_[1], sums_.of + 1);
        }
        if (kInterior || (x >= 0 && x < x_columns_)) flush();
        advance();
      }
    }

   private:
    // B_v': column t of both rows of dv.
    FASTBLUR_INLINE void vertical(int64_t t, const T* dy, V& low, V& high) const {
      low = high = V::set1(0);
      if (!kInterior && (t < 0 || t >= y_columns_)) return;
      if constexpr (kInteriorRows) {
        V y[kEven];
#pragma GCC unroll 8
        for (int a = 0; a < kEven; ++a) {
          y[a] = V::load(dy + a * y_row_);
          low = V::fma(even_[a], y[a], low);
        }
#pragma GCC unroll 8
        for (int a = 0; a < kOdd; ++a) high = V::fma(odd_[a], y[kEven - kOdd + a], high);
        if (kInterior) prefetch(dy + kEven * y_row_);
      } else {
        for (const auto& output : rows_.outputs[0])
          low = V::fma(V::set1(S(output.weight)), V::load(dy + output.row * y_row_), low);
        for (const auto& output : rows_.outputs[1])
          high = V::fma(V::set1(S(output.weight)), V::load(dy + output.row * y_row_), high);
      }
    }

    // B_h' B_v': two columns of both rows of dm.
    FASTBLUR_INLINE void blur(int64_t t, V (&dm)[2][2]) {
      V dv[2][kHistory + 1];
      vertical(t, dy_, dv[0][0], dv[1][0]);
#pragma GCC unroll 2
      for (int e = 0; e < 2; ++e) {
#pragma GCC unroll 4
        for (int h = 0; h < kHistory; ++h) dv[e][h + 1] = sums_.dv[e][h];
        dm[e][0] = dm[e][1] = V::set1(0);
#pragma GCC unroll 8
        for (int b = 0; b < F; ++b) dm[e][b % 2] = V::fma(taps_[b], dv[e][b / 2], dm[e][b % 2]);
#pragma GCC unroll 4
        for (int h = 0; h < kHistory; ++h) sums_.dv[e][h] = dv[e][h];
      }
    }

    // Adds what the padding gives back to column v of m.
    FASTBLUR_INLINE void apply_edge(int64_t v, V& dm, V& dm_below) const {
      for (const auto& fold : kernel_.folds_) {
        if (fold.to != v) continue;
        V low, high;
        vertical(fold.from, first_dy_ + fold.from * channels_ + i_, low, high);
        dm = V::fma(V::set1(fold.weight), low, dm);
        dm_below = V::fma(V::set1(fold.weight), high, dm_below);
      }
    }

    // S_h' S_v' of one window: adds its gradient to the candidate that its code names.
    FASTBLUR_INLINE void route(V dm, const uint8_t* code, V (*to)[K]) const {
      Routing<V, K> routing;
      routing.decode(dm, relu_,
                     [&](int b) FASTBLUR_INLINE { return V::mask_at(code + b * bitplane_); });
#pragma GCC unroll 3
      for (int r = 0; r < K; ++r)
#pragma GCC unroll 3
        for (int c = 0; c < K; ++c) routing.accumulate(false, r, c, to[r][c]);
    }

    // Loads the partial sums of column x of dx, the last column that the window reaches.
    FASTBLUR_INLINE void load_partial(int64_t x) {
      const bool exists = K > 1 && (kInterior || (x >= 0 && x < x_columns_));
#pragma GCC unroll 4
      for (int r = 0; r < kReached; ++r)
        sums_.of[r][K - 1] =
            exists && r < K - 1 ? V::load(partial_ + ((K - 1) * (K - 1) + r) * L) : V::set1(0);
    }

    // Stores a column: two elements of dx are complete, those of the rows below are partial.
    FASTBLUR_INLINE void flush() {
      // A line that is written in part must be in the cache, so it is prefetched.
      if (kInterior && !stream_) prefetch(to_[0] + next_tile_), prefetch(to_[1] + next_tile_);
      if (stream_) sums_.of[0][0].stream(to_[0]), sums_.of[1][0].stream(to_[1]);
      else sums_.of[0][0].store(to_[0]), sums_.of[1][0].store(to_[1]);
#pragma GCC unroll 2
      for (int r = 2; r < kReached; ++r) sums_.of[r][0].store(partial_ + (r - 2) * L);
    }

    FASTBLUR_INLINE void advance() {
#pragma GCC unroll 4
      for (int r = 0; r < kReached; ++r)
#pragma GCC unroll 4
        for (int next = 1; next < K; ++next) sums_.of[r][next - 1] = sums_.of[r][next];
      to_[0] += channels_, to_[1] += channels_;
      code_[0] += column_bytes_, code_[1] += column_bytes_;
      partial_ += (K - 1) * L;
    }

    FusedPixelsBack& kernel_;
    const Rows& rows_;
    const int64_t before_, pad_, x_columns_, m_columns_, y_columns_, channels_, column_bytes_,
        bitplane_, y_row_, next_tile_;
    const bool stream_, relu_;
    const T* const first_dy_;
    V taps_[F], even_[kEven], odd_[kOdd];
    // The position of the vector.
    int64_t i_;  // its first channel
    S* partial_;
    const T* dy_;
    T* to_[2];
    const uint8_t* code_[2];
    Sums sums_;
  };

  const Sweep<V>& sweep_;
  const T* dy_;
  const uint8_t *codes_, *end_of_codes_;
  int64_t channels_, vectors_;
  bool spreads_, stream_;
  int64_t column_bytes_;                                          // bytes of codes in a column
  int64_t end_of_pairs_, interior_begin_ = 1, interior_end_ = 0;  // pairs of columns
  std::vector<Fold<S>> folds_;
  // For each vector of channels: the partial rows of dx, column after column, and its Sums.
  Scratch<S> partial_, carry_;
  Scratch<T> discard_;  // stands in for rows of dx outside [x0, x1)
  Bits row_, spread_;
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
