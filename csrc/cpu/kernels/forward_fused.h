// B_v S_v S_h in one go, for values that are finite: rows of x in, rows of B_v m out.
//
// One vector of columns at a time goes down the rows of a band. The maxima along the last rows of x
// and the rows of y that are partial stay in registers: m itself is never stored. At the end of a
// band they are kept, and the next one goes on from there, so nothing is made twice. NaN and
// infinities have rules of their own, and are noticed at the end of a band; then the stages of
// select.h do it.
#pragma once

#include "cpu/kernels/sweep.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// What row i of y takes from rows stride * i - before - 1 + [0, size) of m: with these, reflected
// rows too are in reach of the rows that a sweep with stride 2 has at hand.
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
  bool all() const { return all_; }     // or rows are out of reach
  int pairs() const { return pairs_; }  // of rows of m, after the first row
  static constexpr int size(int pairs) { return 2 * pairs + 1; }
  int size() const { return size(pairs_); }
  // Of row i of y. Rows -pairs() < i < 0 and as many behind the last have zeros.
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

  // For bands of `band` rows of y, and tiles of `tile` columns.
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

  // The row of m behind those that are made when row i of y is the next.
  int64_t end_of_rows(int64_t i) const {
    return 2 * (i + windows_.pairs() - 1) - sweep_.p.h.before;
  }

  // Rows [i0, i1) of B_v m, those columns that are in the tile, to `out`, and the codes of rows
  // [own_first, own_last). Or false if a value is not finite: then those of all tiles are of no
  // use, for each looks at its windows' first candidates, and the others are in some tile the
  // first.
  bool make(const Tile& tile, int64_t i0, int64_t i1, int64_t own_first, int64_t own_last,
            Scratch<S>& out) {
    const Axis& h = sweep_.p.h;
    if (tile.at == 0) resumes_ = tile.plane == plane_ && i0 == reached_;
    const int64_t first = resumes_ ? end_of_rows(i0) : 2 * i0 - h.before - 1;
    const int64_t n_rows = end_of_rows(i1) - first, known = resumes_ ? K - 1 : 0;
    const T* const plane = x_ + tile.plane * h.size * sweep_.x_row;
    for (int64_t r = known; r < n_rows + K - 1; ++r) {
      // A row that only m's padding would see can be anything finite.
      const int64_t row = first - h.pad + r;
      x_rows_[0][r - known] = row >= 0 && row < h.size                ? plane + row * sweep_.x_row
                              : row >= -h.pad && row < h.size + h.pad ? nullptr
                                                                      : zeros_[0];
    }
    const auto for_each_carry = [&](int64_t row, auto f) {  // string of a row of x, from `row` on
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
    reached_ = !finite ? -1 : tile.at + tile.n == sweep_.pitch ? i1 : reached_;
    if (finite && kCodes && own_first < own_last) put_own_codes(tile, first, own_first, own_last);
    return finite;
  }

 private:
  // Winners of windows of 2 x 2 are named in registers: a bitplane for the column, one for the row.
  // Of larger ones there would be too many masks, so comparisons leave strings, as in select.h.
  static constexpr bool kNames = kCodes && K == 2, kStrings = kCodes && K != 2;

  int64_t rows_of_m(int64_t rows_of_y) const { return 1 + 2 * (rows_of_y + windows_.pairs() - 1); }

  template <bool kRelu>
  bool make_columns(const Tile& tile, int64_t i0, int64_t i1, Scratch<S>& out) {
    constexpr int L = V::kLanes;
    V nonfinite = V::set1(0);
    const int64_t pixel_stride = sweep_.p.pixel_stride(), pad = sweep_.p.w.pad * pixel_stride;
    // Those whose candidates are all columns of x; what a shorter row of m has behind it are too.
    const int64_t last =
        min(sweep_.x_row, sweep_.pitch - pad) - (K - 1) * pixel_stride - L;  // first one's
    const int64_t begin = min(tile.n, (max(0, pad - tile.at) + L - 1) / L * L);
    const int64_t end = min(tile.n, max(0, last + pad - tile.at + L) / L * L);
    with_truth(windows_.pairs() == 2, [&](auto two) {
      const auto sweep_rows = [&](auto interior, int64_t from, int64_t to) {
        constexpr int kPairs = two() ? 2 : 3;
        if (from < to)
          this->template sweep_rows<kRelu, kPairs, interior()>(tile, from, to, i0, i1, out,
                                                               nonfinite);
      };
      sweep_rows(std::false_type{}, 0, begin);
      sweep_rows(std::true_type{}, begin, end);
      sweep_rows(std::false_type{}, max(begin, end), tile.n);
    });
    nonfinite = V::fma(nonfinite, V::set1(0), V::set1(0));
    return V::to_bits(V::beats(nonfinite, nonfinite)) == 0;
  }

  // A vector of columns after the other, from column `begin` of the tile to `end`. All that they
  // have in common is worked out before: a band is a few rows.
  template <bool kRelu, int kPairs, bool kInterior>
  void sweep_rows(const Tile& tile, int64_t begin, int64_t end, int64_t i0, int64_t i1,
                  Scratch<S>& out, V& nonfinite) {
    const V zero = V::set1(0), lowest = V::set1(-S(__builtin_inf()));
    const Mask nobody = V::to_mask(0), everybody = V::to_mask(~0u);
    const int64_t pixel_stride = sweep_.p.pixel_stride(), x_length = sweep_.x_row,
                  row_bytes = pitch_ / 8;
    const int64_t first = tile.at - sweep_.p.w.pad * pixel_stride;
    // What comes next: the columns beside those of the tile, or behind the last, the next band's.
    const bool beside = tile.at + tile.n < sweep_.pitch;
    const int64_t next =
        first + (beside ? tile.n + (K - 1) * pixel_stride : 2 * (i1 - i0) * x_length - tile.at);
    const T* const* const x_rows = x_rows_[0];
    uint8_t *const won_columns = won_columns_[0], *const won_rows = won_rows_[0],
                   *const bitplanes = bitplanes_[0];
    const int64_t column_string = won_columns_.stride(), row_string = won_rows_.stride();
    const int64_t bitplane_string = bitplanes_.stride();
    S* const carry_rows = carry_[0] + tile.at;
    uint8_t* const carry_columns = kNames ? carry_columns_[1] + tile.at / 8 : nullptr;
    const int64_t carry_row = carry_.stride(), out_row = out.stride();
    S* const out_rows = out[0] + tile.at;
    const int64_t first_i = resumes_ ? i0 + kPairs - 1 : i0, end_i = i1 + kPairs - 1;
    const S* const first_weights = windows_.row(first_i);
    const bool resumes = resumes_;
    V sum = zero;

    for (int64_t column_at = begin; column_at < end; column_at += V::kLanes) {
      const int64_t from = first + column_at, ahead = next + column_at;
      const T* const* x_row = x_rows;
      typename V::LaneBits exists[K];
      for (int c = 0; !kInterior && c < K; ++c)
        exists[c] = lanes_between<V>(-from - c * pixel_stride, x_length - from - c * pixel_stride);
      // Of the strings; what comparisons say of a row goes `at` bytes further on.
      uint8_t *column[K + 1], *row[K + 1], *bitplane[2 + kRelu];
      for (int c = 1; kStrings && c < K; ++c)
        column[c] = won_columns + c * column_string + column_at / 8;
      for (int r = 1; kStrings && r < K + kRelu; ++r)
        row[r] = won_rows + r * row_string + column_at / 8;
      for (int b = 0; kNames && b < 2 + kRelu; ++b)
        bitplane[b] = bitplanes + b * bitplane_string + column_at / 8;
      uint8_t* const carry_second = kNames ? carry_columns + column_at / 8 : nullptr;
      S* const carry = carry_rows + column_at;
      S* to = out_rows + column_at;

      V best[K + 1];       // of the last K - 1 rows, and of two more
      Mask second[K + 1];  // where their candidate 1 is it
      const auto take = [&](uint8_t* const& winner, int64_t at, V candidate, V& top)
                            __attribute__((always_inline)) {
                              if (kStrings) V::put_mask(winner + at, V::greater(candidate, top));
                              top = V::max(candidate, top);
                            };
      // S_h of the next row of x.
      const auto max_of_columns = [&](int i, int64_t at) __attribute__((always_inline)) {
        const T* const x = *x_row++;
        if (x == nullptr) {
          for (int c = 1; kStrings && c < K; ++c) put_lanes<V>(column[c] + at, 0, 0);
          best[i] = lowest;
          if (kNames) second[i] = nobody;
          return;
        }
        prefetch(x + ahead);
        V top;
#pragma GCC unroll 3
        for (int c = 0; c < K; ++c) {
          const V raw = kInterior ? V::load(x + from + c * pixel_stride)
                                  : V::load_masked(x + from + c * pixel_stride, exists[c]);
          const V candidate = kInterior ? raw : V::if_then_else(V::to_mask(exists[c]), raw, lowest);
          if (c == 0 || !kInterior) sum = V::add(sum, raw);
          if (kNames && c == 1) second[i] = V::greater(candidate, top);
          if (c == 0) top = candidate;
          else take(column[c], at, candidate, top);
        }
        best[i] = top;
      };
      // S_v: the next row of m, from best[i] on.
      const auto max_of_rows = [&](int i, int64_t at) __attribute__((always_inline)) {
        V top = best[i];
        if (kNames) {
          const Mask lower = V::greater(best[i + 1], top);
          V::put_mask(bitplane[0] + at, V::select(lower, second[i + 1], second[i]));
          top = V::max(best[i + 1], top);
          if (!kRelu) {
            V::put_mask(bitplane[1] + at, lower);
            return top;
          }
          const Mask positive = V::greater(top, zero);
          V::put_mask(bitplane[1] + at, V::select(positive, lower, nobody));
          V::put_mask(bitplane[2] + at, V::select(positive, nobody, everybody));
          return V::max(top, zero);
        }
#pragma GCC unroll 3
        for (int r = 1; r < K; ++r) take(row[r], at, best[i + r], top);
        if (kRelu) {
          V floor = zero;
          take(row[K], at, top, floor);
          top = floor;
        }
        return top;
      };

      V before;           // the last row of m
      V partial[kPairs];  // partial[j]: row i of y before its pair j + 1
      int64_t i = first_i, at = 0;
      if (resumes) {
        for (int r = 0; r < K - 1; ++r) best[2 + r] = V::load(carry + r * carry_row);
        if (kNames) second[2] = V::mask_at(carry_second);
        before = V::load(carry + (K - 1) * carry_row);
        for (int j = 0; j < kPairs - 1; ++j) partial[j] = V::load(carry + (K + j) * carry_row);
      } else {
#pragma GCC unroll 3
        for (int r = 0; r < K; ++r) max_of_columns(r + 1, r * row_bytes);
        before = max_of_rows(1, 0);
        for (int j = 0; j < kPairs; ++j) partial[j] = zero;
        at = row_bytes;
      }
      for (int c = 1; kStrings && c < K; ++c)
        column[c] += (K - 1) * row_bytes;  // that much ahead of the rows'
      constexpr int kWeights = VerticalWeights<S>::size(kPairs);
      const S* weights = first_weights;
      for (; i < end_i; ++i, weights += kWeights, at += 2 * row_bytes) {
#pragma GCC unroll 3
        for (int r = 0; r < K - 1; ++r) {
          best[r] = best[r + 2];
          if (kNames) second[r] = second[r + 2];
        }
        max_of_columns(K - 1, at);
        const V low = max_of_rows(0, at);
        max_of_columns(K, at + row_bytes);
        const V high = max_of_rows(1, at + row_bytes);
#pragma GCC unroll 3
        for (int j = kPairs - 1; j >= 0; --j) {
          const S* const weight = weights - j * kWeights + 1 + 2 * j;
          const V done = j == 0 ? V::fma(V::set1(weight[-1]), before, zero) : partial[j - 1];
          partial[j] = V::fma(V::set1(weight[1]), high, V::fma(V::set1(weight[0]), low, done));
        }
        if (i - (kPairs - 1) >= i0) {
          partial[kPairs - 1].store(to);
          to += out_row;
        }
        before = high;
      }
      for (int r = 0; r < K - 1; ++r) best[2 + r].store(carry + r * carry_row);
      if (kNames) V::put_mask(carry_second, second[2]);
      before.store(carry + (K - 1) * carry_row);
      for (int j = 0; j < kPairs - 1; ++j) partial[j].store(carry + (K + j) * carry_row);
    }
    nonfinite = V::add(nonfinite, sum);
  }

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
  int64_t pitch_;  // of the strings
  Scratch<const T*> x_rows_;
  Scratch<T> zeros_;
  Bits won_columns_, won_rows_, bitplanes_;
  // Of the last band, of this plane and up to this row of y: the maxima of K - 1 rows of x, a row
  // of m, the rows of y that are partial; and of those rows of x the strings, or the masks.
  int64_t plane_ = -1, reached_ = -1;
  bool resumes_ = false;  // whether this band goes on from there
  Scratch<S> carry_;
  Bits carry_columns_;
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
