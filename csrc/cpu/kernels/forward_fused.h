// FusedRows computes rows of B_v S_v S_h x from rows of x in one pass, for finite values.
//
// One vector of columns at a time sweeps down the rows of a band (VectorSweep). The maxima along
// the last rows of x and the partial rows of y stay in registers, so m is never stored. At the end
// of a band they go to the carry, and the next band continues from there, so nothing is computed
// twice.
//
// NaN and infinities follow other rules. A sum over everything read shows them at the end of a
// band. Then the stages of select.h compute the band again.
#pragma once

#include "cpu/kernels/sweep.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// The weights with which row i of y sums the rows 2 * i - before - 1 + [0, size()) of m, for a
// vertical stride of 2. These are the rows that a sweep has at hand. The first of them is before
// the taps, so that reflected rows are among them too.
template <class S>
class VerticalWeights {
 public:
  static constexpr int kMaxPairs = 3;

  explicit VerticalWeights(const Params& p, const VerticalTaps& vertical)
      : pairs_(p.h.n_taps <= 4 ? 2 : kMaxPairs),
        weights_(size_t((p.h.out() + 2 * (pairs_ - 1)) * size()), S(0)),
        all_(p.h.stride == 2 && p.h.n_taps <= 2 * kMaxPairs) {
    for (int64_t i = 0; all_ && i < p.h.out(); ++i) {
      for (const auto& tap : vertical.sources(i)) {
        const int64_t k = tap.row - (2 * i - p.h.before - 1);
        if (k < 0 || k >= size()) all_ = false;
        else weights_[size_t((i + pairs_ - 1) * size() + k)] += S(tap.weight);
      }
    }
  }
  bool all() const { return all_; }     // whether y reads no other rows
  int pairs() const { return pairs_; }  // pairs of rows of m, after the first row
  static constexpr int size(int pairs) { return 2 * pairs + 1; }
  int size() const { return size(pairs_); }
  // The weights of row i of y. They are zero for -pairs() < i < 0 and for as many rows after the
  // last.
  const S* row(int64_t i) const { return weights_.data() + (i + pairs_ - 1) * size(); }

 private:
  int pairs_;
  std::vector<S> weights_;
  bool all_;
};

template <class V, class T, int K, bool kCodes>
class FusedRows {
 public:
  using S = typename V::Scalar;
  using Mask = typename V::Mask;

  // `band` is the number of rows of y in a band, `tile` the number of elements of a row in a tile.
  FusedRows(const Sweep<V>& sweep, const VerticalWeights<S>& windows, const T* x, uint8_t* codes,
            int64_t band, int64_t tile)
      : sweep_(sweep),
        windows_(windows),
        x_(x),
        codes_(codes),
        pitch_((tile + 15) / 16 * 16),
        x_rows_(1, rows_of_m(band) + K, 0),
        zeros_(1, sweep.x_row, 0),
        won_columns_(kStrings ? K : 0, (rows_of_m(band) + K) * pitch_),
        won_rows_(kStrings ? K + 1 : 0, rows_of_m(band) * pitch_),
        bitplanes_(kCodes ? sweep.code_bits : 0, rows_of_m(band) * pitch_),
        carry_(K + windows.pairs() - 1, sweep.pitch, 0),
        carry_columns_(kCodes ? K * (K - 1) : 0, sweep.pitch) {}

  // The first row of m that is not computed yet when row i of y is the next.
  int64_t end_of_rows(int64_t i) const {
    return 2 * (i + windows_.pairs() - 1) - sweep_.p.h.before;
  }

  // Computes the tile's columns of rows [i0, i1) of B_v m, to `out`, and writes the codes of rows
  // [own_first, own_last) of m. Returns false if any input is NaN or infinite. Each tile tests only
  // the first candidates of its windows, so one failure invalidates the whole band.
  bool make(const Tile& tile, int64_t i0, int64_t i1, int64_t own_first, int64_t own_last,
            Scratch<S>& out) {
    const Axis& h = sweep_.p.h;
    if (tile.at == 0) resumes_ = tile.plane == plane_ && i0 == reached_;
    const int64_t first = resumes_ ? end_of_rows(i0) : 2 * i0 - h.before - 1;
    const int64_t n_rows = end_of_rows(i1) - first, known = resumes_ ? K - 1 : 0;
    const T* const plane = x_ + tile.plane * h.size * sweep_.x_row;
    for (int64_t r = known; r < n_rows + K - 1; ++r) {
      // A row beyond the padding of the max is read only for rows that m does not have. It may hold
      // any finite values.
      const int64_t row = first - h.pad + r;
      x_rows_[0][r - known] = row >= 0 && row < h.size                ? plane + row * sweep_.x_row
                              : row >= -h.pad && row < h.size + h.pad ? nullptr
                                                                      : zeros_[0];
    }
    // Calls f(here, carry, bytes) for the strings of K - 1 rows of x, from row `row` on.
    const auto for_each_carry = [&](int64_t row, auto f) {
      for (int c = 1; kStrings && c < K; ++c)
        for (int r = 0; r < K - 1; ++r)
          f(won_columns_[c] + (row + r) * pitch_ / 8, carry_columns_[c * (K - 1) + r] + tile.at / 8,
            size_t(tile.n + 7) / 8);
    };
    if (resumes_)
      for_each_carry(0,
                     [](uint8_t* here, uint8_t* carry, size_t n) { std::memcpy(here, carry, n); });
    bool finite = true;
    with_relu<K>(sweep_.p.relu,
                 [&](auto relu) { finite = make_columns<relu()>(tile, i0, i1, out); });
    for_each_carry(n_rows,
                   [](uint8_t* here, uint8_t* carry, size_t n) { std::memcpy(carry, here, n); });
    plane_ = tile.plane;
    reached_ = finite ? i1 : -1;
    if (finite && kCodes && own_first < own_last) put_own_codes(tile, first, own_first, own_last);
    return finite;
  }

 private:
  // kNames: the winners of 2 x 2 windows are encoded in registers, as one bit plane for the column
  // and one for the row. kStrings: other comparisons write strings, as in select.h, because larger
  // windows would take too many masks.
  static constexpr bool kNames = kCodes && K == 2, kStrings = kCodes && K != 2;

  int64_t rows_of_m(int64_t rows_of_y) const { return 1 + 2 * (rows_of_y + windows_.pairs() - 1); }

  template <bool kRelu>
  bool make_columns(const Tile& tile, int64_t i0, int64_t i1, Scratch<S>& out) {
    constexpr int L = V::kLanes;
    const int64_t pixel_stride = sweep_.p.pixel_stride(), pad = sweep_.p.w.pad * pixel_stride;
    // An interior vector has all its candidates in x; it may lie behind the end of a shorter row of
    // m. `last` is the last position of its candidate 0 in x.
    const int64_t last = min(sweep_.x_row, sweep_.pitch - pad) - (K - 1) * pixel_stride - L;
    const int64_t begin = min(tile.n, (max(0, pad - tile.at) + L - 1) / L * L);
    const int64_t end = min(tile.n, max(0, last + pad - tile.at + L) / L * L);
    V sum = V::set1(0);
    with_truth(windows_.pairs() == 2, [&](auto two) {
      constexpr int kPairs = two() ? 2 : 3;
      const Band band = band_of(tile, i0, i1, kPairs, out);
      sweep_rows<kRelu, kPairs, false>(band, 0, begin, sum);
      sweep_rows<kRelu, kPairs, true>(band, begin, end, sum);
      sweep_rows<kRelu, kPairs, false>(band, max(begin, end), tile.n, sum);
    });
    const V nonfinite = V::fma(sum, V::set1(0), V::set1(0));
    return V::to_bits(V::beats(nonfinite, nonfinite)) == 0;
  }

  // What all vectors of columns of a tile share. It is computed once per tile, because a band has
  // too few rows to do so for each vector.
  struct Band {
    int64_t pixel_stride, x_length;
    int64_t first;  // position in a row of x of candidate 0 of the tile's first column
    int64_t next;   // position of what is read after the tile, for prefetching
    const T* const* x_rows;
    uint8_t *won_columns, *won_rows, *bitplanes;
    int64_t column_string, row_string, bitplane_string, row_bytes;
    S *carry, *out;
    uint8_t* carry_second;
    int64_t carry_row, out_row;
    bool resumes;
    int64_t i0, first_i, end_i;  // rows of y: the first to store, the range to begin
    const S* weights;
  };

  Band band_of(const Tile& tile, int64_t i0, int64_t i1, int pairs, Scratch<S>& out) {
    const int64_t pixel_stride = sweep_.p.pixel_stride();
    const int64_t first = tile.at - sweep_.p.w.pad * pixel_stride;
    const int64_t first_i = resumes_ ? i0 + pairs - 1 : i0;
    // The columns beside the tile are next, or after the last tile the rows of the next band.
    const bool beside = tile.at + tile.n < sweep_.pitch;
    const int64_t next =
        beside ? tile.n + (K - 1) * pixel_stride : 2 * (i1 - i0) * sweep_.x_row - tile.at;
    return {.pixel_stride = pixel_stride,
            .x_length = sweep_.x_row,
            .first = first,
            .next = first + next,
            .x_rows = x_rows_[0],
            .won_columns = won_columns_[0],
            .won_rows = won_rows_[0],
            .bitplanes = bitplanes_[0],
            .column_string = won_columns_.stride(),
            .row_string = won_rows_.stride(),
            .bitplane_string = bitplanes_.stride(),
            .row_bytes = pitch_ / 8,
            .carry = carry_[0] + tile.at,
            .out = out[0] + tile.at,
            .carry_second = kNames ? carry_columns_[1] + tile.at / 8 : nullptr,
            .carry_row = carry_.stride(),
            .out_row = out.stride(),
            .resumes = resumes_,
            .i0 = i0,
            .first_i = first_i,
            .end_i = i1 + pairs - 1,
            .weights = windows_.row(first_i)};
  }

  // Sweeps columns [begin, end) of a tile, one vector after the other.
  template <bool kRelu, int kPairs, bool kInterior>
  static void sweep_rows(const Band& band, int64_t begin, int64_t end, V& sum) {
    if (begin >= end) return;
    const Band b = band;  // a copy: stores through uint8_t* could alias the original
    V all = V::set1(0);
    for (int64_t column = begin; column < end; column += V::kLanes)
      VectorSweep<kRelu, kPairs, kInterior>(b, column, all).run();
    sum = V::add(sum, all);
  }

  // Sweeps one vector of columns down the rows of a band.
  template <bool kRelu, int kPairs, bool kInterior>
  class VectorSweep {
   public:
    FASTBLUR_INLINE VectorSweep(const Band& band, int64_t column, V& sum)
        : b_(band),
          sum_(sum),
          from_(band.first + column),
          ahead_(band.next + column),
          x_row_(band.x_rows),
          carry_(band.carry + column),
          out_(band.out + column),
          carry_second_(kNames ? band.carry_second + column / 8 : nullptr) {
      for (int c = 0; !kInterior && c < K; ++c)
        exists_[c] = lanes_between<V>(-from_ - c * b_.pixel_stride,
                                      b_.x_length - from_ - c * b_.pixel_stride);
      for (int c = 1; kStrings && c < K; ++c)
        column_[c] = b_.won_columns + c * b_.column_string + column / 8;
      for (int r = 1; kStrings && r < K + kRelu; ++r)
        row_[r] = b_.won_rows + r * b_.row_string + column / 8;
      for (int p = 0; kNames && p < 2 + kRelu; ++p)
        bitplane_[p] = b_.bitplanes + p * b_.bitplane_string + column / 8;
    }

    // Each step computes two rows of m and adds them to the rows of y that read them.
    FASTBLUR_INLINE void run() {
      int64_t at = b_.resumes ? resume() : start();
      for (int c = 1; kStrings && c < K; ++c)
        column_[c] += (K - 1) * b_.row_bytes;  // rows of x are ahead of rows of m
      const S* weights = b_.weights;
      for (int64_t i = b_.first_i; i < b_.end_i; ++i, at += 2 * b_.row_bytes) {
#pragma GCC unroll 3
        for (int r = 0; r < K - 1; ++r) {
          best_[r] = best_[r + 2];
          if (kNames) second_[r] = second_[r + 2];
        }
        max_of_columns(K - 1, at);
        const V low = max_of_rows(0, at);
        max_of_columns(K, at + b_.row_bytes);
        const V high = max_of_rows(1, at + b_.row_bytes);
        blur_rows(low, high, weights);
        weights += kWeights;
        if (i - (kPairs - 1) >= b_.i0) {
          partial_[kPairs - 1].store(out_);
          out_ += b_.out_row;
        }
      }
      carry();
    }

   private:
    static constexpr int kWeights = VerticalWeights<S>::size(kPairs);

    // start begins a band without a carry, resume continues from the carry. Both return where the
    // winners of the next row go, as an offset in bytes.
    FASTBLUR_INLINE int64_t start() {
#pragma GCC unroll 3
      for (int r = 0; r < K; ++r) max_of_columns(r + 1, r * b_.row_bytes);
      before_ = max_of_rows(1, 0);
      for (int j = 0; j < kPairs; ++j) partial_[j] = V::set1(0);
      return b_.row_bytes;
    }
    FASTBLUR_INLINE int64_t resume() {
      for (int r = 0; r < K - 1; ++r) best_[2 + r] = V::load(carry_ + r * b_.carry_row);
      if (kNames) second_[2] = V::mask_at(carry_second_);
      before_ = V::load(carry_ + (K - 1) * b_.carry_row);
      for (int j = 0; j < kPairs - 1; ++j) partial_[j] = V::load(carry_ + (K + j) * b_.carry_row);
      return 0;
    }
    FASTBLUR_INLINE void carry() {
      for (int r = 0; r < K - 1; ++r) best_[2 + r].store(carry_ + r * b_.carry_row);
      if (kNames) V::put_mask(carry_second_, second_[2]);
      before_.store(carry_ + (K - 1) * b_.carry_row);
      for (int j = 0; j < kPairs - 1; ++j) partial_[j].store(carry_ + (K + j) * b_.carry_row);
    }

    // S_h: the maxima along the next row of x, to best_[i].
    FASTBLUR_INLINE void max_of_columns(int i, int64_t at) {
      const V lowest = V::set1(-S(__builtin_inf()));
      const T* const x = *x_row_++;
      if (x == nullptr) {
        for (int c = 1; kStrings && c < K; ++c) put_lanes<V>(column_[c] + at, 0, 0);
        best_[i] = lowest;
        if (kNames) second_[i] = V::to_mask(0);
        return;
      }
      prefetch(x + ahead_);
      V top;
#pragma GCC unroll 3
      for (int c = 0; c < K; ++c) {
        const T* const from = x + from_ + c * b_.pixel_stride;
        const V raw = kInterior ? V::load(from) : V::load_masked(from, exists_[c]);
        const V candidate = kInterior ? raw : V::if_then_else(V::to_mask(exists_[c]), raw, lowest);
        if (c == 0 || !kInterior) sum_ = V::add(sum_, raw);
        if (kNames && c == 1) second_[i] = V::greater(candidate, top);
        if (c == 0) top = candidate;
        else take(column_[c] + at, candidate, top);
      }
      best_[i] = top;
    }

    // S_v, with kRelu also ReLU: the next row of m, from best_[i] to best_[i + K - 1].
    FASTBLUR_INLINE V max_of_rows(int i, int64_t at) {
      const V zero = V::set1(0);
      V top = best_[i];
      if constexpr (kNames) {
        const Mask lower = V::greater(best_[i + 1], top);
        V::put_mask(bitplane_[0] + at, V::select(lower, second_[i + 1], second_[i]));
        top = V::max(best_[i + 1], top);
        if constexpr (!kRelu) {
          V::put_mask(bitplane_[1] + at, lower);
          return top;
        } else {
          const Mask positive = V::greater(top, zero), nobody = V::to_mask(0);
          V::put_mask(bitplane_[1] + at, V::select(positive, lower, nobody));
          V::put_mask(bitplane_[2] + at, V::select(positive, nobody, V::to_mask(~0u)));
          return V::max(top, zero);
        }
      }
#pragma GCC unroll 3
      for (int r = 1; r < K; ++r) take(row_[r] + at, best_[i + r], top);
      if constexpr (kRelu) {
        V floor = zero;
        take(row_[K] + at, top, floor);
        top = floor;
      }
      return top;
    }

    FASTBLUR_INLINE static void take(uint8_t* winner, V candidate, V& top) {
      if (kStrings) V::put_mask(winner, V::greater(candidate, top));
      top = V::max(candidate, top);
    }

    // B_v: adds two rows of m to the kPairs rows of y that read them.
    FASTBLUR_INLINE void blur_rows(V low, V high, const S* weights) {
#pragma GCC unroll 3
      for (int j = kPairs - 1; j >= 0; --j) {
        const S* const weight = weights - j * kWeights + 1 + 2 * j;
        const V done = j == 0 ? V::fma(V::set1(weight[-1]), before_, V::set1(0)) : partial_[j - 1];
        partial_[j] = V::fma(V::set1(weight[1]), high, V::fma(V::set1(weight[0]), low, done));
      }
      before_ = high;
    }

    const Band& b_;
    V& sum_;  // of the values read: not finite if one of them is not
    const int64_t from_, ahead_;
    const T* const* x_row_;
    S *carry_, *out_;
    uint8_t* carry_second_;
    typename V::LaneBits exists_[K];
    // Where the winners go, as strings or as bit planes; those of a row go `at` bytes further on.
    uint8_t *column_[K + 1], *row_[K + 1], *bitplane_[2 + kRelu];
    V best_[K + 1];       // maxima along the last K - 1 rows of x, then along two new ones
    Mask second_[K + 1];  // where candidate 1 is that maximum
    V before_;            // the row of m before the next two
    V partial_[kPairs];   // partial_[j]: a row of y with its pairs 0 to j of rows of m
  };

  void put_own_codes(const Tile& tile, int64_t first, int64_t own_first, int64_t own_last) {
    if (kNames)
      return put_codes(sweep_, tile, pitch_, own_first, own_last, bitplanes_, own_first - first,
                       codes_);
    BitReader rows[kMaxPool + 1] = {}, columns[kMaxPool][kMaxPool];
    const int64_t at = (own_first - first) * pitch_;
    for (int r = 1; r < K + sweep_.p.relu; ++r) rows[r] = {won_rows_[r], at};
    for (int r = 0; r < K; ++r)
      for (int c = 1; c < K; ++c) columns[r][c] = {won_columns_[c], at + r * pitch_};
    with_relu<K>(sweep_.p.relu, [&](auto relu) {
      name_winners<K, relu()>(sweep_.p, columns, rows, 0, K, (own_last - own_first) * pitch_,
                              bitplanes_);
    });
    put_codes(sweep_, tile, pitch_, own_first, own_last, bitplanes_, 0, codes_);
  }

  const Sweep<V>& sweep_;
  const VerticalWeights<S>& windows_;
  const T* x_;
  uint8_t* codes_;
  int64_t pitch_;  // of the strings, in bits
  Scratch<const T*> x_rows_;
  Scratch<T> zeros_;
  Bits won_columns_, won_rows_, bitplanes_;
  // The carry of the last band, which ended before row reached_ of y in plane plane_. reached_ is
  // -1 if there is none. carry_ has the maxima along K - 1 rows of x, one row of m, and the partial
  // rows of y. carry_columns_ has the strings, or with kNames the masks, of those rows of x.
  int64_t plane_ = -1, reached_ = -1;
  bool resumes_ = false;  // whether this band continues from the carry
  Scratch<S> carry_;
  Bits carry_columns_;
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
