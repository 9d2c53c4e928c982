// The stages of the op, each on one row:
//
//   forward    y  = B_h B_v S_v S_h x       select_columns, select_rows, sum_rows, blur_columns
//   backward   dx = S_h' S_v' B_h' B_v' dy  sum_rows, blur_columns_transposed, route_back
//   apply      forward with S given         take_winners, sum_rows, blur_columns
//
// A row is flat: columns side by side, `step` elements each, so that the element `c` columns to the
// right is always `c * step` further on and both memory formats share every stage but the strided
// ones. Rows of x, y, dy, dx are the user's memory, of type T, and nothing outside them is touched.
// All other rows are scratch of type V::Scalar (Scratch below) and are read and written in whole
// vectors. V is a vector type with the interface described in simd_generic.h.
#pragma once

#include "level.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

constexpr int kMaxPlanes = 8;  // 4 for the column and 4 for the row of a winner

// Calls f with n as a compile-time constant if it is one of the sizes, else with 0.
template <int... kSizes, class F>
void with_constant(Sizes<kSizes...>, int n, F f) {
  const bool known = ((n == kSizes && (f(std::integral_constant<int, kSizes>{}), true)) || ...);
  if (!known) f(std::integral_constant<int, 0>{});
}

// Rows of scratch with `margin` zeroed elements, and a little more, on both sides of each.
template <class E>
class Scratch {
 public:
  Scratch(int64_t rows, int64_t length, int64_t margin)
      : lead_(round(margin)), stride_(lead_ + round(length + margin)) {
    data_ = static_cast<E*>(std::calloc(size_t(rows * stride_ + kSlack), sizeof(E)));
    if (!data_) throw std::bad_alloc();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  E* operator[](int64_t row) { return data_ + row * stride_ + lead_; }
  int64_t stride() const { return stride_; }

 private:
  static constexpr int64_t kSlack = 32;  // two of the widest vectors
  static int64_t round(int64_t n) { return (n + 15) / 16 * 16 + kSlack; }
  int64_t lead_, stride_;
  E* data_;
};

// The code of one row while it is worked on: its planes, one Word for each vector.
template <class V>
struct Planes {
  typename V::Word* base;
  int64_t stride;
  typename V::Word* operator[](int plane) const { return base + plane * stride; }
};

// Lanes [begin, end) as bits, clipped to the vector.
template <class V>
inline typename V::Word lanes_between(int64_t begin, int64_t end) {
  begin = begin < 0 ? 0 : begin;
  end = end > V::kLanes ? V::kLanes : end;
  if (begin >= end) return 0;
  return typename V::Word((1u << end) - (1u << begin));
}

// Writes winner `index` into the planes where `won`.
inline void name_winner(unsigned* planes, int n_planes, unsigned index, unsigned won) {
  for (int b = 0; b < n_planes; ++b)
    planes[b] = index >> b & 1 ? planes[b] | won : planes[b] & ~won;
}

// Where the planes say `index`.
inline unsigned where_winner(const unsigned* planes, int n_planes, unsigned index) {
  unsigned is = ~0u;
  for (int b = 0; b < n_planes; ++b) is &= index >> b & 1 ? planes[b] : ~planes[b];
  return is;
}

// S_h: best[i] = max_c x[i + (c - pad) * step], and which c. K = pool, or 0 to read it from p.
template <class V, int K, bool kCodes, class T>
void select_columns(const Params& p, const T* x, typename V::Scalar* best, Planes<V> code) {
  using Word = typename V::Word;
  constexpr int L = V::kLanes;
  const int64_t step = p.step(), n = p.w.pooled() * step;
  const int pool = K ? K : p.w.pool;
  const int n_planes = kCodes ? column_bits(pool) : 0;
  const int64_t pad = p.w.pad * step, size = p.w.size * step;

  const auto finish = [&](int64_t i, V top, const unsigned* planes) {
    top.store(best + i);
    for (int b = 0; b < n_planes; ++b) code[b][i / L] = Word(planes[b]);
  };
  // Every candidate of every lane exists.
  const auto inner = [&](int64_t i) {
    unsigned planes[kMaxPlanes] = {};
    V top = V::load(x + i - pad);
#pragma GCC unroll 4
    for (int c = 1; c < pool; ++c) {
      const V candidate = V::load(x + i - pad + c * step);
      const auto won = V::beats(candidate, top);
      top = V::blend(won, candidate, top);
      if (kCodes) name_winner(planes, n_planes, c, V::to_bits(won));
    }
    finish(i, top, planes);
  };
  // Some do not: the first that exists wins over nothing, so padding never wins.
  const auto edge = [&](int64_t i) {
    unsigned planes[kMaxPlanes] = {};
    const unsigned mine = lanes_between<V>(0, n - i);
    unsigned seen = 0;
    V top = V::splat(0);
    for (int c = 0; c < pool; ++c) {
      const int64_t from = i - pad + c * step;
      const unsigned exists = mine & lanes_between<V>(-from, size - from);
      const V candidate = V::load_where(x + from, Word(exists));
      const unsigned won = exists & (V::to_bits(V::beats(candidate, top)) | ~seen);
      top = V::blend(V::to_mask(won), candidate, top);
      if (kCodes) name_winner(planes, n_planes, c, won);
      seen |= exists;
    }
    finish(i, top, planes);
  };

  const int64_t inner_end = size + pad - (pool - 1) * step;
  int64_t i = 0;
  for (; i < n && i < pad; i += L) edge(i);
  for (; i + L <= n && i + L <= inner_end; i += L) inner(i);
  for (; i < n; i += L) edge(i);
}

// S_v (and ReLU): m[i] = max over rows r in [begin, end) of best[r][i]; the winner's column moves
// along with it, and its row joins it. The order, columns first and then rows, makes the first of
// equal values in row-major order win, as in max_pool2d.
template <class V, int K, bool kCodes, bool kRelu>
void select_rows_as(const Params& p, const typename V::Scalar* const* best, const Planes<V>* from,
                    int begin, int end, typename V::Scalar* m, Planes<V> code) {
  using Word = typename V::Word;
  constexpr int L = V::kLanes;
  const int64_t n = p.w.pooled() * p.step();
  const int n_column = kCodes ? column_bits(K ? K : p.w.pool) : 0;
  const int n_row = kCodes ? row_bits(K ? K : p.h.pool, kRelu) : 0;
  if (K) begin = 0, end = K;
  for (int64_t i = 0; i < n; i += L) {
    unsigned column[kMaxPlanes] = {}, row[kMaxPlanes] = {};
    V top = V::load(best[begin] + i);
    for (int b = 0; b < n_column; ++b) column[b] = from[begin][b][i / L];
    if (kCodes && begin) name_winner(row, n_row, begin, ~0u);
#pragma GCC unroll 4
    for (int r = begin + 1; r < end; ++r) {
      const V candidate = V::load(best[r] + i);
      const auto won = V::beats(candidate, top);
      top = V::blend(won, candidate, top);
      if (kCodes) {
        const unsigned bits = V::to_bits(won);
        for (int b = 0; b < n_column; ++b)
          column[b] = (column[b] & ~bits) | (from[r][b][i / L] & bits);
        name_winner(row, n_row, r, bits);
      }
    }
    if (kRelu) {
      const V zero = V::splat(0);
      const auto alive = V::beats(top, zero);
      top = V::blend(alive, top, zero);
      if (kCodes) name_winner(row, n_row, p.h.pool, ~unsigned(V::to_bits(alive)));
    }
    top.store(m + i);
    for (int b = 0; b < n_column; ++b) code[b][i / L] = Word(column[b]);
    for (int b = 0; b < n_row; ++b) code[n_column + b][i / L] = Word(row[b]);
  }
}

template <class V, int K, bool kCodes>
void select_rows(const Params& p, const typename V::Scalar* const* best, const Planes<V>* from,
                 int begin, int end, typename V::Scalar* m, Planes<V> code) {
  if (p.relu) select_rows_as<V, K, kCodes, true>(p, best, from, begin, end, m, code);
  else select_rows_as<V, K, kCodes, false>(p, best, from, begin, end, m, code);
}

// S_v S_h with the winners given: m[i] = x[row r, i + (c - pad) * step], or 0 where nobody won.
// best[r] are scratch rows of x with margins of pad columns.
template <class V>
void take_winners(const Params& p, const typename V::Scalar* const* x, int begin, int end,
                  Planes<V> code, typename V::Scalar* m) {
  constexpr int L = V::kLanes;
  const int64_t step = p.step(), n = p.w.pooled() * step;
  const int n_column = column_bits(p.w.pool), n_row = row_bits(p.h.pool, p.relu);
  for (int64_t i = 0; i < n; i += L) {
    unsigned column[kMaxPlanes], row[kMaxPlanes];
    for (int b = 0; b < n_column; ++b) column[b] = code[b][i / L];
    for (int b = 0; b < n_row; ++b) row[b] = code[n_column + b][i / L];
    V taken = V::splat(0);
    for (int r = begin; r < end; ++r) {
      const unsigned in_row = where_winner(row, n_row, r);
      for (int c = 0; c < p.w.pool; ++c) {
        const auto won = V::to_mask(in_row & where_winner(column, n_column, c));
        taken = V::blend(won, V::load(x[r] + i + (c - p.w.pad) * step), taken);
      }
    }
    taken.store(m + i);
  }
}

// B_v and B_v': out[i] = sum_a weight[a] * row[a][i] for i in [0, n); N = number of rows, or 0.
template <class V, int N, class T>
void sum_n_rows(const T* const* row, const typename V::Scalar* weight, int n_rows, int64_t n,
                typename V::Scalar* out) {
  constexpr int L = V::kLanes;
  if (N) n_rows = N;
  // Copies, if they are few, because a store to out might change weight for all the compiler knows.
  V own_weight[N ? N : 1];
  const T* own_row[N ? N : 1];
  for (int a = 0; a < N; ++a) own_weight[a] = V::splat(weight[a]), own_row[a] = row[a];
  const auto at = [&](int64_t i, auto load) {
    V sum = V::splat(0);
#pragma GCC unroll 8
    for (int a = 0; a < n_rows; ++a)
      sum = N ? V::fma(own_weight[a], load(own_row[a] + i), sum)
              : V::fma(V::splat(weight[a]), load(row[a] + i), sum);
    sum.store(out + i);
  };
  int64_t i = 0;
  for (; i + L <= n; i += L) at(i, [](const T* p) { return V::load(p); });
  if (i < n) {
    const auto tail = lanes_between<V>(0, n - i);
    at(i, [tail](const T* p) { return V::load_where(p, tail); });
  }
}

template <class V, class T>
void sum_rows(const T* const* row, const typename V::Scalar* weight, int n_rows, int64_t n,
              typename V::Scalar* out) {
  with_constant(RowCounts{}, n_rows,
                [&](auto known) { sum_n_rows<V, known()>(row, weight, n_rows, n, out); });
}

// The padding of a row of m, which lies in its margins.
template <class S>
void pad_columns(const Params& p, S* m) {
  const int64_t step = p.step(), size = p.w.pooled();
  const auto fill = [&](int64_t q) {
    const int64_t source = border_source(q, size, p.border);
    for (int64_t i = 0; i < step; ++i) m[q * step + i] = source < 0 ? S(0) : m[source * step + i];
  };
  for (int64_t q = -p.w.before; q < 0; ++q) fill(q);
  for (int64_t q = size; q < size + p.w.after; ++q) fill(q);
}

// Its transpose: what reached the padding belongs to where the padding came from.
template <class S>
void fold_columns(const Params& p, S* m) {
  const int64_t step = p.step(), size = p.w.pooled();
  const auto fold = [&](int64_t q) {
    const int64_t source = border_source(q, size, p.border);
    if (source < 0) return;
    for (int64_t i = 0; i < step; ++i) m[source * step + i] += m[q * step + i];
  };
  for (int64_t q = -p.w.before; q < 0; ++q) fold(q);
  for (int64_t q = size; q < size + p.w.after; ++q) fold(q);
}

// B_h: y[j] = sum_b taps[b] * m[stride * j + b - before], on columns. F = number of taps, or 0.
template <class V, int F, class T>
void blur_columns_n(const Params& p, const typename V::Scalar* taps, const typename V::Scalar* m,
                    T* y) {
  using S = typename V::Scalar;
  constexpr int L = V::kLanes;
  const int n_taps = F ? F : p.w.n_taps;
  const int64_t step = p.step(), stride = p.w.stride, columns = p.w.out();
  m -= p.w.before * step;
  // n outputs side by side whose inputs lie side by side too.
  const auto run = [&](const S* in, T* out, int64_t n) {
    for (int64_t i = 0; i < n; i += L) {
      V sum = V::splat(0);
#pragma GCC unroll 8
      for (int b = 0; b < n_taps; ++b)
        sum = V::fma(V::splat(taps[b]), V::load(in + i + b * step), sum);
      if (i + L <= n) sum.store(out + i);
      else sum.store_first(out + i, int(n - i));
    }
  };
  if (stride == 1) {
    run(m, y, columns * step);
  } else if (step > 1) {
    for (int64_t j = 0; j < columns; ++j) run(m + stride * j * step, y + j * step, step);
  } else if (stride == 2) {
    for (int64_t j = 0; j < columns; j += L) {
      V sum = V::splat(0);
#pragma GCC unroll 8
      for (int b = 0; b < n_taps; b += 2) {
        V even, odd;
        V::deinterleave(V::load(m + 2 * j + b), V::load(m + 2 * j + b + L), even, odd);
        sum = V::fma(V::splat(taps[b]), even, sum);
        if (b + 1 < n_taps) sum = V::fma(V::splat(taps[b + 1]), odd, sum);
      }
      if (j + L <= columns) sum.store(y + j);
      else sum.store_first(y + j, int(columns - j));
    }
  } else {
    for (int64_t j = 0; j < columns; ++j) {
      S sum = 0;
      for (int b = 0; b < n_taps; ++b) sum += taps[b] * m[stride * j + b];
      y[j] = T(sum);
    }
  }
}

// B_h': m[q - before] = sum over b = q mod stride of taps[b] * dv[(q - b) / stride], q in the
// padded row; then the padding folds in. dv has zero margins wide enough for every j asked for.
template <class V, int F>
void blur_columns_transposed_n(const Params& p, const typename V::Scalar* taps,
                               const typename V::Scalar* dv, typename V::Scalar* m) {
  using S = typename V::Scalar;
  constexpr int L = V::kLanes;
  const int n_taps = F ? F : p.w.n_taps;
  const int64_t step = p.step(), stride = p.w.stride, padded = p.w.padded();
  S* const out = m - p.w.before * step;
  // n inputs side by side that meet taps first, first + stride, ... at j, j - 1, ...
  const auto run = [&](const S* in, int first, S* to, int64_t n) {
    for (int64_t i = 0; i < n; i += L) {
      V sum = V::splat(0);
#pragma GCC unroll 8
      for (int64_t b = first; b < n_taps; b += stride)
        sum = V::fma(V::splat(taps[b]), V::load(in + i - (b - first) / stride * step), sum);
      sum.store(to + i);
    }
  };
  if (stride == 1) {
    run(dv, 0, out, padded * step);
  } else if (step > 1) {
    // Ascending, so that what a store spills beyond its column is written over by the next.
    for (int64_t q = 0; q < padded; ++q)
      run(dv + q / stride * step, int(q % stride), out + q * step, step);
  } else if (stride == 2) {
    for (int64_t j = 0; 2 * j < padded; j += L) {
      V even = V::splat(0), odd = V::splat(0), lo, hi;
#pragma GCC unroll 8
      for (int b = 0; b < n_taps; b += 2) {
        const V in = V::load(dv + j - b / 2);
        even = V::fma(V::splat(taps[b]), in, even);
        if (b + 1 < n_taps) odd = V::fma(V::splat(taps[b + 1]), in, odd);
      }
      V::interleave(even, odd, lo, hi);
      lo.store(out + 2 * j);
      hi.store(out + 2 * j + L);
    }
  } else {
    for (int64_t q = 0; q < padded; ++q) {
      S sum = 0;
      for (int64_t b = q % stride; b < n_taps; b += stride) sum += taps[b] * dv[(q - b) / stride];
      out[q] = sum;
    }
  }
  fold_columns(p, m);
}

template <class V, class T>
void blur_columns(const Params& p, const typename V::Scalar* taps, const typename V::Scalar* m,
                  T* y) {
  with_constant(TapCounts{}, p.w.n_taps,
                [&](auto known) { blur_columns_n<V, known()>(p, taps, m, y); });
}

template <class V>
void blur_columns_transposed(const Params& p, const typename V::Scalar* taps,
                             const typename V::Scalar* dv, typename V::Scalar* m) {
  with_constant(TapCounts{}, p.w.n_taps,
                [&](auto known) { blur_columns_transposed_n<V, known()>(p, taps, dv, m); });
}

template <class V, class T>
void store_row(const typename V::Scalar* row, int64_t n, T* out) {
  constexpr int L = V::kLanes;
  int64_t i = 0;
  for (; i + L <= n; i += L) V::load(row + i).store(out + i);
  if (i < n) V::load(row + i).store_first(out + i, int(n - i));
}

// S_h' S_v': dx[i] = sum over r in [begin, end) and c of dm[r][i + (pad - c) * step] where the code
// there says (r, c). First S_v' splits the rows of dm by the winner's column (split[c], with zero
// margins of pool columns), then S_h' adds the parts up, each shifted to its column. K = pool where
// all of its rows take part, or 0.
template <class V, int K, bool kRelu, class T>
void route_back_as(const Params& p, const typename V::Scalar* const* dm, const Planes<V>* code,
                   int begin, int end, Scratch<typename V::Scalar>& split, T* dx) {
  constexpr int L = V::kLanes;
  const int64_t step = p.step(), n_m = p.w.pooled() * step, n_x = p.w.size * step;
  const int pool_w = K ? K : p.w.pool;
  const int n_column = column_bits(pool_w), n_row = row_bits(K ? K : p.h.pool, kRelu);
  if (K) begin = 0, end = K;

  for (int64_t i = 0; i < n_m; i += L) {
    V part[K ? K : kMaxPool];
    for (int c = 0; c < pool_w; ++c) part[c] = V::splat(0);
#pragma GCC unroll 4
    for (int r = begin; r < end; ++r) {
      unsigned column[kMaxPlanes], row[kMaxPlanes];
      for (int b = 0; b < n_column; ++b) column[b] = code[r][b][i / L];
      for (int b = 0; b < n_row; ++b) row[b] = code[r][n_column + b][i / L];
      const unsigned in_row = where_winner(row, n_row, r);
      const V term = V::load(dm[r] + i);
#pragma GCC unroll 4
      for (int c = 0; c < pool_w; ++c)
        part[c] =
            V::add_where(V::to_mask(in_row & where_winner(column, n_column, c)), part[c], term);
    }
    if (i + L > n_m) {  // the margin behind the row must stay zero
      const auto mine = V::to_mask(lanes_between<V>(0, n_m - i));
      for (int c = 0; c < pool_w; ++c) part[c] = V::blend(mine, part[c], V::splat(0));
    }
    for (int c = 0; c < pool_w; ++c) part[c].store(split[c] + i);
  }

  for (int64_t i = 0; i < n_x; i += L) {
    V sum = V::load(split[0] + i + p.w.pad * step);
#pragma GCC unroll 4
    for (int c = 1; c < pool_w; ++c) {
      sum = V::add(sum, V::load(split[c] + i + (p.w.pad - c) * step));
    }
    if (i + L <= n_x) sum.store(dx + i);
    else sum.store_first(dx + i, int(n_x - i));
  }
}

template <class V, int K, class T>
void route_back(const Params& p, const typename V::Scalar* const* dm, const Planes<V>* code,
                int begin, int end, Scratch<typename V::Scalar>& split, T* dx) {
  if (p.relu) route_back_as<V, K, true>(p, dm, code, begin, end, split, dx);
  else route_back_as<V, K, false>(p, dm, code, begin, end, split, dx);
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
