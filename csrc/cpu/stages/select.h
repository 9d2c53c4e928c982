// S_v S_h, the max: select_columns takes it along the rows of x, then select_rows down the rows.
//
// Both work on flat runs. A run is any number of elements side by side: several rows of x, or a
// part of one row. In both memory formats, the element c columns to the right is c * pixel_stride
// elements further on, and the next row is a constant pitch further on. Strings of bits (Edges) say
// which lanes lack a candidate because its column is padding. So a run may cross the ends of rows.
//
// Comparisons write one bit per element to strings. name_winners encodes the strings of a whole run
// as the bit planes of the codes, 64 elements at a time; find_winners decodes them.
#pragma once

#include "cpu/stages/scratch.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

constexpr int kMaxBitplanes = 8;  // 4 for the column of a winner and 4 for its row

// Which elements of a row have which candidates of the max along the row. The elements after the
// end of a row of m have candidates too, where these are columns of x, but their results have no
// meaning.
template <class V>
class Edges {
 public:
  Edges(const Params& p, int64_t rows)
      : exists_(p.w.pool, rows * code_row_length(p)), interior_(1, rows * code_row_length(p), 0) {
    const int64_t pixel_stride = p.pixel_stride(), row = code_row_length(p), n = rows * row;
    for (int c = 0; c < p.w.pool; ++c) {
      std::memset(exists_[c], 0xff, size_t(n / 8 + 16));
      // Elements [low, high) of each row have candidate c. Both are clamped, because a window can
      // reach beyond the whole row.
      const auto within = [&](int64_t column) { return min(max(0, column) * pixel_stride, row); };
      const int64_t low = within(p.w.pad - c), high = within(p.w.size + p.w.pad - c);
      for (int64_t r = 0; r < rows; ++r) {
        clear_bits(exists_[c], r * row, low);
        clear_bits(exists_[c], r * row + high, row - high);
      }
    }
    for (int64_t i = 0; i < n; i += V::kLanes) {
      typename V::LaneBits all = typename V::LaneBits(~0u);
      for (int c = 0; c < p.w.pool; ++c) all &= get_lanes<V>(exists_[c], i);
      interior_[0][i / V::kLanes] = all == typename V::LaneBits(~0u);
    }
  }
  // One byte per vector, from element i on: whether all candidates of all its lanes exist.
  const uint8_t* interior(int64_t i) const { return interior_[0] + i / V::kLanes; }
  // The string of the elements that have candidate c, from element i on.
  const uint8_t* exists(int c, int64_t i) const { return exists_[c] + i / 8; }

 private:
  Bits exists_;
  Scratch<uint8_t> interior_;
};

// A run of n elements of x. `before` elements before it and `behind` after it may be read too.
template <class E>
struct Run {
  const E* x;
  int64_t n, before, behind;
};

// S_h: best[i] = max over c of x[i + (c - pad) * pixel_stride]. Bit won_at + i of won[c] is set
// where candidate c > 0 took over from the best so far. The run begins at element `at` of the
// edges.
//
// Without kNonfinite, the result is right for finite values only. If any value is not finite, the
// sums added to `nonfinite` are NaN. The caller checks that once, and repeats the stage if needed.
template <class V, int K, bool kCodes, bool kNonfinite, class E>
void select_columns(const Params& p, const Edges<V>& edges, int64_t at, Run<E> run,
                    typename V::Scalar* best, Bits& won, int64_t won_at, V& nonfinite) {
  constexpr int L = V::kLanes;
  const int pool = K ? K : p.w.pool;
  const int64_t pixel_stride = p.pixel_stride(), pad = p.w.pad * pixel_stride, n = run.n;
  const E* const x = run.x;
  // Local copies, because for the compiler a store to a string could change anything in memory.
  uint8_t* winner[K ? K : kMaxPool];
  const uint8_t* exists_at[K ? K : kMaxPool];
  for (int c = 1; kCodes && c < pool; ++c) winner[c] = won[c] + won_at / 8;
  for (int c = 0; c < pool; ++c) exists_at[c] = edges.exists(c, at);
  const uint8_t* const is_interior = edges.interior(at);
  const int pad_columns = int(p.w.pad);
  V sums = V::set1(0);
  const V lowest = V::set1(-typename V::Scalar(__builtin_inf()));

  const auto interior = [&](int64_t i) {
    V top = V::load(x + i - pad), sum = top;
#pragma GCC unroll 4
    for (int c = 1; c < pool; ++c) {
      const V candidate = V::load(x + i - pad + c * pixel_stride);
      if constexpr (kNonfinite) {
        const auto takes = V::beats(candidate, top);
        top = V::if_then_else(takes, candidate, top);
        if (kCodes) put_lanes<V>(winner[c], i, V::to_bits(takes));
      } else {
        if (kCodes) put_lanes<V>(winner[c], i, V::to_bits(V::greater(candidate, top)));
        top = V::max(candidate, top);
        sum = V::add(sum, candidate);
      }
    }
    if (!kNonfinite) sums = V::fma(sum, V::set1(0), sums);
    top.store(best + i);
  };
  // Padding counts as -inf, and the first candidate that exists takes over from the padding before
  // it. load(c, exists) returns candidate c, and sets `exists` to the lanes that have one; the
  // other lanes may hold anything.
  const auto edge = [&](int64_t i, auto load) {
    V top, sum = V::set1(0);
#pragma GCC unroll 4
    for (int c = 0; c < pool; ++c) {
      typename V::LaneBits exists;
      const V raw = load(c, exists);
      const V candidate = V::if_then_else(V::to_mask(exists), raw, lowest);
      sum = V::add(sum, raw);
      if (c == 0) {
        top = candidate;
        continue;
      }
      unsigned takes =
          V::to_bits(kNonfinite ? V::beats(candidate, top) : V::greater(candidate, top));
      if (c <= pad_columns) takes |= ~unsigned(get_lanes<V>(exists_at[c - 1], i));
      if (kCodes) put_lanes<V>(winner[c], i, typename V::LaneBits(takes));
      top =
          kNonfinite ? V::if_then_else(V::to_mask(takes), candidate, top) : V::max(candidate, top);
    }
    if (!kNonfinite) sums = V::fma(sum, V::set1(0), sums);
    top.store(best + i);
  };

  const int64_t safe_begin = pad - run.before;
  const int64_t safe_end = n + run.behind + pad - (pool - 1) * pixel_stride - L + 1;
  for (int64_t i = 0; i < n; i += L) {
    __builtin_prefetch(x + i + n);  // probably part of the next run
    if (i >= safe_begin && i < safe_end) {
      if (is_interior[size_t(i) / L]) interior(i);
      else
        edge(i, [&](int c, typename V::LaneBits& exists) {
          exists = get_lanes<V>(exists_at[c], i);
          return V::load(x + i - pad + c * pixel_stride);
        });
    } else {
      edge(i, [&](int c, typename V::LaneBits& exists) {
        const int64_t from = i - pad + c * pixel_stride;
        exists = get_lanes<V>(exists_at[c], i) &
                 lanes_between<V>(-run.before - from, n + run.behind - from);
        return V::load_masked(x + from, exists);
      });
    }
  }
  if (!kNonfinite) nonfinite = V::add(nonfinite, sums);
}

// S_v, with kRelu also ReLU: m[i] = max over r < n_rows of best[i + r * pitch]. N is n_rows, or 0
// if it is not known at compile time. Bit i of won[r] is set where row r > 0 took over from the
// best so far. Bit i of won[n_rows] is set where ReLU kept the maximum.
template <class V, int N, bool kCodes, bool kRelu, bool kNonfinite>
void select_rows(const typename V::Scalar* best, int64_t pitch, int n_rows, int64_t n,
                 typename V::Scalar* m, Bits& won) {
  constexpr int L = V::kLanes;
  if (N) n_rows = N;
  uint8_t* winner[(N ? N : kMaxPool) + 1];
  for (int r = 1; kCodes && r <= n_rows; ++r) winner[r] = won[r];
  const auto take = [&](int r, int64_t i, V candidate, V& top) {
    if constexpr (kNonfinite) {
      const auto takes = V::beats(candidate, top);
      top = V::if_then_else(takes, candidate, top);
      if (kCodes) put_lanes<V>(winner[r], i, V::to_bits(takes));
    } else {
      if (kCodes) put_lanes<V>(winner[r], i, V::to_bits(V::greater(candidate, top)));
      top = V::max(candidate, top);
    }
  };
  for (int64_t i = 0; i < n; i += L) {
    V top = V::load(best + i);
#pragma GCC unroll 4
    for (int r = 1; r < n_rows; ++r) take(r, i, V::load(best + i + r * pitch), top);
    if (kRelu) {
      V zero = V::set1(0);
      take(n_rows, i, top, zero);
      top = zero;
    }
    top.store(m + i);
  }
}

// Encodes the winners of n elements as bit planes.
//   columns[r][c]: the string of select_columns for candidate c, from row r of the candidates on
//   rows[r]: the string of select_rows for row r
//   first_row: the index in the window of the first of the n_rows rows
//   K: the size of the window if all its rows take part, otherwise 0
template <int K, bool kRelu>
void name_winners(const Params& p, const BitReader (*columns)[kMaxPool], const BitReader* rows,
                  int first_row, int n_rows, int64_t n, Bits& bitplanes) {
  const int pool_w = K ? K : p.w.pool;
  const int n_column = column_bits(pool_w), n_row = row_bits(K ? K : p.h.pool, kRelu);
  if (K) n_rows = K, first_row = 0;
  uint8_t* out[kMaxBitplanes];
  for (int b = 0; b < n_column + n_row; ++b) out[b] = bitplanes[b];
  BitReader column[K ? K : kMaxPool][K ? K : kMaxPool], row[(K ? K : kMaxPool) + 1] = {};
  for (int r = 0; r < n_rows; ++r)
    for (int c = 1; c < pool_w; ++c) column[r][c] = columns[r][c];
  for (int r = 1; r < n_rows + kRelu; ++r) row[r] = rows[r];
  // Writes `index` for the elements whose bit of `won` is set.
  const auto name = [](uint64_t* bitplane, int bits, unsigned index, uint64_t won) {
    for (int b = 0; b < bits; ++b)
      bitplane[b] = index >> b & 1 ? bitplane[b] | won : bitplane[b] & ~won;
  };
  const int64_t words = (n + 63) / 64;
#pragma GCC ivdep
  for (int64_t w = 0; w < words; ++w) {
    uint64_t in_column[4] = {}, in_row[4] = {};
    for (int r = 0; r < n_rows; ++r) {
      uint64_t here[4] = {};
      for (int c = 1; c < pool_w; ++c) name(here, n_column, unsigned(c), column[r][c][w]);
      const uint64_t won = r > 0 ? row[r][w] : ~uint64_t(0);
      for (int b = 0; b < n_column; ++b) in_column[b] = (in_column[b] & ~won) | (here[b] & won);
      name(in_row, n_row, unsigned(first_row + r), won);
    }
    if (kRelu) name(in_row, n_row, unsigned(K ? K : p.h.pool), ~row[n_rows][w]);
    for (int b = 0; b < n_column; ++b) put_word(out[b], w, in_column[b]);
    for (int b = 0; b < n_row; ++b) put_word(out[n_column + b], w, in_row[b]);
  }
}

// Decodes the bit planes of n elements: bit i of won[r * pool_w + c] is set where candidate (r, c)
// won element i. exists_at(c) is the string of the elements that have a column for candidate c: a
// candidate without a column never wins, whatever the bit planes say. K is the size of the window,
// or 0 if it is not known at compile time.
template <int K, bool kRelu, class F>
void find_winners(const Params& p, F exists_at, Bits& bitplanes, int64_t n, Bits& won) {
  const int pool_h = K ? K : p.h.pool, pool_w = K ? K : p.w.pool;
  const int n_column = column_bits(pool_w), n_row = row_bits(pool_h, kRelu);
  const auto is = [](const uint64_t* bitplane, int bits, unsigned index) {
    uint64_t all = ~uint64_t(0);
    for (int b = 0; b < bits; ++b) all &= index >> b & 1 ? bitplane[b] : ~bitplane[b];
    return all;
  };
  const uint8_t* bitplane[kMaxBitplanes];
  for (int b = 0; b < n_column + n_row; ++b) bitplane[b] = bitplanes[b];
  const uint8_t* exists[K ? K : kMaxPool];
  for (int c = 0; c < pool_w; ++c) exists[c] = exists_at(c);
  uint8_t* out[K ? K * K : kMaxPool * kMaxPool];
  for (int k = 0; k < pool_h * pool_w; ++k) out[k] = won[k];
  const int64_t words = (n + 63) / 64;
#pragma GCC ivdep
  for (int64_t w = 0; w < words; ++w) {
    uint64_t column[4], row[4];
    for (int b = 0; b < n_column; ++b) column[b] = get_word(bitplane[b], w);
    for (int b = 0; b < n_row; ++b) row[b] = get_word(bitplane[n_column + b], w);
    uint64_t in_column[K ? K : kMaxPool];
#pragma GCC unroll 3
    for (int c = 0; c < pool_w; ++c)
      in_column[c] = is(column, n_column, unsigned(c)) & get_word(exists[c], w);
#pragma GCC unroll 3
    for (int r = 0; r < pool_h; ++r) {
      const uint64_t in_row = is(row, n_row, unsigned(r));
#pragma GCC unroll 3
      for (int c = 0; c < pool_w; ++c) put_word(out[r * pool_w + c], w, in_row & in_column[c]);
    }
  }
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
