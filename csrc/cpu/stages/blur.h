// B_v, B_h and their transposes B_v' and B_h'.
//
//   B_v, B_v': sum_rows adds rows with weights.
//   B_h: pad_columns fills in the padding of a row, then blur_columns blurs and subsamples it.
//   B_h': blur_columns_transposed is the transpose without the padding, then fold_columns adds what
//     the padding gives back.
//
// A row is flat: each column is pixel_stride elements. So both memory formats share all stages
// except the strided ones.
#pragma once

#include "cpu/stages/scratch.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// B_v and B_v': out[i] = sum over a of weight[a] * row[a][i], for i in [0, n). N is n_rows, or 0 if
// it is not known at compile time. The last two rows are prefetched, `ahead` elements ahead; the
// other rows were the last ones of earlier calls. If `ahead` is 0, nothing is prefetched.
template <class V, int N, class E>
void sum_n_rows(const E* const* row, const typename V::Scalar* weight, int n_rows, int64_t n,
                typename V::Scalar* out, int64_t ahead) {
  constexpr int L = V::kLanes;
  if (N) n_rows = N;
  // Local copies if N is known, because for the compiler a store to `out` could change `weight`.
  V own_weight[N ? N : 1];
  const E* own_row[N ? N : 1];
  for (int a = 0; a < N; ++a) own_weight[a] = V::set1(weight[a]), own_row[a] = row[a];
  const auto at = [&](int64_t i, auto load) {
    V sum = V::set1(0);
    if constexpr (N > 1) {
      if (ahead) prefetch(own_row[N - 2] + i + ahead), prefetch(own_row[N - 1] + i + ahead);
    }
#pragma GCC unroll 8
    for (int a = 0; a < n_rows; ++a)
      sum = N ? V::fma(own_weight[a], load(own_row[a] + i), sum)
              : V::fma(V::set1(weight[a]), load(row[a] + i), sum);
    sum.store(out + i);
  };
  int64_t i = 0;
  for (; i + L <= n; i += L) at(i, [](const E* p) { return V::load(p); });
  if (i < n) {
    const auto tail = lanes_between<V>(0, n - i);
    at(i, [tail](const E* p) { return V::load_masked(p, tail); });
  }
}

template <class V, class E>
void sum_rows(const E* const* row, const typename V::Scalar* weight, int n_rows, int64_t n,
              typename V::Scalar* out, int64_t ahead = 0) {
  with_constant(RowCounts{}, n_rows,
                [&](auto known) { sum_n_rows<V, known()>(row, weight, n_rows, n, out, ahead); });
}

// Column `to` of the padding is a copy of column `from`, or zero if from < 0.
struct Border1d {
  int64_t to, from;
};

inline std::vector<Border1d> borders_of(const Axis& w, Border border) {
  std::vector<Border1d> borders;
  const auto add = [&](int64_t v) { borders.push_back({v, border_source(v, w.pooled(), border)}); };
  for (int64_t v = -w.before; v < 0; ++v) add(v);
  for (int64_t v = w.pooled(); v < w.pooled() + w.after; ++v) add(v);
  return borders;
}

// Writes the padding of n_rows rows to their margins. Row r begins at m + r * m_row.
template <class S>
void pad_columns(const std::vector<Border1d>& borders, int64_t pixel_stride, S* m, int64_t m_row,
                 int64_t n_rows) {
  for (const auto& [to, from] : borders) {
    for (int64_t r = 0; r < n_rows; ++r) {
      S* const row = m + r * m_row;
      if (pixel_stride == 1) row[to] = from < 0 ? S(0) : row[from];
      else if (from < 0)
        std::memset((void*)(row + to * pixel_stride), 0, sizeof(S) * size_t(pixel_stride));
      else
        std::memcpy(row + to * pixel_stride, row + from * pixel_stride,
                    sizeof(S) * size_t(pixel_stride));
    }
  }
}

// B_h of rows with their padding: column y[j] = sum over b of taps[b] * m[stride * j + b - before].
// Row r begins at m + r * m_row. F is the number of taps, or 0 if it is not known at compile time.
// With `stream`, y bypasses the caches; only channels_last uses it.
template <class V, int F, class T>
void blur_columns_n(const Params& p, const typename V::Scalar* taps, const typename V::Scalar* m,
                    int64_t m_row, int64_t n_rows, T* y, bool stream) {
  using S = typename V::Scalar;
  constexpr int L = V::kLanes;
  const int n_taps = F ? F : p.w.n_taps;
  const int64_t pixel_stride = p.pixel_stride(), stride = p.w.stride, columns = p.w.out();
  V own[F ? F : 1];  // local copies, as in sum_n_rows
  for (int b = 0; b < F; ++b) own[b] = V::set1(taps[b]);
  const auto tap = [&](int b) { return F ? own[b] : V::set1(taps[b]); };
  // Blurs n outputs side by side whose inputs are side by side too.
  const auto run = [&](const S* in, T* out, int64_t n) {
    for (int64_t i = 0; i < n; i += L) {
      V sum = V::set1(0);
#pragma GCC unroll 8
      for (int b = 0; b < n_taps; ++b)
        sum = V::fma(tap(b), V::load(in + i + b * pixel_stride), sum);
      if (i + L > n) sum.store_n(out + i, int(n - i));
      else if (stream) sum.stream(out + i);
      else sum.store(out + i);
    }
  };
  m -= p.w.before * pixel_stride;
  for (int64_t r = 0; r < n_rows; ++r, m += m_row, y += columns * pixel_stride) {
    if (stride == 1) {
      run(m, y, columns * pixel_stride);
    } else if (pixel_stride > 1) {
      for (int64_t j = 0; j < columns; ++j)
        run(m + stride * j * pixel_stride, y + j * pixel_stride, pixel_stride);
    } else if (stride == 2) {
      // The elements of the last two taps. Every other tap takes the same elements, moved by some
      // lanes, so join gets them from these and those of the block before.
      V even, odd, even_before, odd_before;
      const auto load_pair = [&](int64_t j, int b, V& even, V& odd) {
        V::deinterleave(V::load(m + 2 * j + b), V::load(m + 2 * j + b + L), even, odd);
      };
      if (F) load_pair(-L, F - 2, even_before, odd_before);
      for (int64_t j = 0; j < columns; j += L) {
        V sum = V::set1(0);
        prefetch(y + j + kPrefetchAhead);
        if constexpr (F > 0) {
          load_pair(j, F - 2, even, odd);
          for_each_constant<F>([&](auto b) {
            constexpr int from_end = F - 1 - b();
            V from = from_end % 2 ? even : odd;
            if constexpr (from_end >= 2)
              from = V::template join<from_end / 2>(from_end % 2 ? even_before : odd_before, from);
            sum = V::fma(tap(b()), from, sum);
          });
          even_before = even, odd_before = odd;
        } else {
          for (int b = 0; b < n_taps; b += 2) {
            load_pair(j, b, even, odd);
            sum = V::fma(tap(b), even, sum);
            if (b + 1 < n_taps) sum = V::fma(tap(b + 1), odd, sum);
          }
        }
        if (j + L <= columns) sum.store(y + j);
        else sum.store_n(y + j, int(columns - j));
      }
    } else {
      for (int64_t j = 0; j < columns; ++j) {
        S sum = 0;
        for (int b = 0; b < n_taps; ++b) sum += taps[b] * m[stride * j + b];
        y[j] = T(sum);
      }
    }
  }
}

template <class V, class T>
void blur_columns(const Params& p, const typename V::Scalar* taps, const typename V::Scalar* m,
                  int64_t m_row, int64_t n_rows, T* y, bool stream) {
  with_constant(TapCounts{}, p.w.n_taps, [&](auto known) {
    blur_columns_n<V, known()>(p, taps, m, m_row, n_rows, y, stream);
  });
}

// B_h' without the padding: m[v] = sum of taps[b] * dv[(q - b) / stride] over all b that equal q
// modulo stride, where q = before + v. dv has zero margins of n_taps columns. Stores up to two
// vectors beyond the end of the row.
template <class V, int F>
void blur_columns_transposed_n(const Params& p, const typename V::Scalar* taps,
                               const typename V::Scalar* dv, typename V::Scalar* m) {
  using S = typename V::Scalar;
  constexpr int L = V::kLanes;
  const int n_taps = F ? F : p.w.n_taps;
  const int64_t pixel_stride = p.pixel_stride(), stride = p.w.stride, before = p.w.before,
                columns = p.w.pooled();
  // One vector of column q of the padded row, from element i of the column on.
  const auto at = [&](int64_t q, int64_t i) {
    const S* const in = dv + q / stride * pixel_stride + i;
    V sum = V::set1(0);
    const auto add = [&](int b, int64_t back) {
      sum = V::fma(V::set1(taps[b]), V::load(in - back * pixel_stride), sum);
    };
    if (stride == 2 && q % 2 == 0) {
#pragma GCC unroll 8
      for (int b = 0; b < n_taps; b += 2) add(b, b / 2);
    } else if (stride == 2) {
#pragma GCC unroll 8
      for (int b = 1; b < n_taps; b += 2) add(b, b / 2);
    } else {
      for (int64_t b = q % stride; b < n_taps; b += stride) add(int(b), b / stride);
    }
    return sum;
  };
  if (pixel_stride > 1) {
    // In ascending order, so that the next column overwrites what a store writes beyond its column.
    const auto column = [&](int64_t v) {
      for (int64_t i = 0; i < pixel_stride; i += L)
        at(before + v, i).store(m + v * pixel_stride + i);
    };
    int64_t v = 0;
    if (F && stride == 2) {
      // Two columns of m at a time. They read the same columns of dv: the first with the even taps,
      // the second with the odd taps.
      if (before % 2 && columns) column(v++);
      V own[F ? F : 1];  // local copies, as in sum_n_rows
      for (int b = 0; b < F; ++b) own[b] = V::set1(taps[b]);
      const S* in = dv + (before + v) / 2 * pixel_stride;
      for (; v + 2 <= columns; v += 2) {
        S* const to = m + v * pixel_stride;
        for (int64_t i = 0; i < pixel_stride; i += L, in += L) {
          V even = V::set1(0), odd = even;
#pragma GCC unroll 8
          for (int b = 0; b < F; b += 2) {
            const V from = V::load(in - b / 2 * pixel_stride);
            even = V::fma(own[b], from, even);
            if (b + 1 < F) odd = V::fma(own[b + 1], from, odd);
          }
          if (i + L <= pixel_stride) even.store(to + i);
          else even.store_n(to + i, int(pixel_stride - i));
          odd.store(to + pixel_stride + i);
        }
        in += pixel_stride - (pixel_stride + L - 1) / L * L;
      }
    }
    for (; v < columns; ++v) column(v);
  } else if (stride == 1) {
    for (int64_t v = 0; v < columns; v += L) at(before + v, 0).store(m + v);
  } else if (stride == 2) {
    // Two columns of m at a time, 2 t and 2 t + 1. One has an even q and takes the even taps: 2 t
    // if `before` is even, otherwise 2 t + 1.
    const int odd = int(before % 2);
    for (int64_t t = 0; 2 * t < columns; t += L) {
      const S* const in = dv + t + before / 2;
      V even = V::set1(0), other = V::set1(0), low, high;
#pragma GCC unroll 8
      for (int b = 0; b < n_taps; b += 2) {
        even = V::fma(V::set1(taps[b]), V::load(in + odd - b / 2), even);
        if (b + 1 < n_taps) other = V::fma(V::set1(taps[b + 1]), V::load(in - b / 2), other);
      }
      if (odd) V::interleave(other, even, low, high);
      else V::interleave(even, other, low, high);
      low.store(m + 2 * t);
      high.store(m + 2 * t + L);
    }
  } else {
    // One phase at a time: columns q = phase, phase + stride, ... take the same taps.
    const int64_t end = before + columns;
    for (int64_t phase = 0; phase < min(stride, end); ++phase) {
      const int64_t first = phase < before ? (before - phase + stride - 1) / stride : 0;
      for (int64_t t = first; phase + t * stride < end; t += L) {
        V sum = V::set1(0);
        for (int64_t b = phase; b < n_taps; b += stride)
          sum = V::fma(V::set1(taps[b]), V::load(dv + t - b / stride), sum);
        S lanes[L];
        sum.store(lanes);
        const int64_t q = phase + t * stride, n = min(L, (end - q + stride - 1) / stride);
        for (int64_t i = 0; i < n; ++i) m[q - before + i * stride] = lanes[i];
      }
    }
  }
}

// What a padding column gives back to the column of m that it is a copy of, because B_h' reaches
// padding columns too: column `to` of m gets weight times column `from` of dv.
template <class S>
struct Fold {
  int64_t to, from;
  S weight;
};

template <class S>
std::vector<Fold<S>> folds_of(const Axis& w, Border border, const S* taps) {
  std::vector<Fold<S>> folds;
  const auto add = [&](int64_t v) {
    const int64_t to = border_source(v, w.pooled(), border), q = w.before + v;
    if (to < 0) return;
    for (int64_t b = q % w.stride; b < w.n_taps; b += w.stride) {
      const int64_t from = (q - b) / w.stride;
      if (b <= q && from < w.out()) folds.push_back({to, from, taps[b]});
    }
  };
  for (int64_t v = -w.before; v < 0; ++v) add(v);
  for (int64_t v = w.pooled(); v < w.pooled() + w.after; ++v) add(v);
  return folds;
}

template <class V>
void fold_columns(const std::vector<Fold<typename V::Scalar>>& folds, int64_t pixel_stride,
                  const typename V::Scalar* dv, typename V::Scalar* m) {
  constexpr int L = V::kLanes;
  for (const auto& fold : folds) {
    auto* const to = m + fold.to * pixel_stride;
    const auto* const from = dv + fold.from * pixel_stride;
    if (pixel_stride == 1) {
      *to += fold.weight * *from;
      continue;
    }
    for (int64_t i = 0; i < pixel_stride; i += L)
      V::fma(V::set1(fold.weight), V::load(from + i), V::load(to + i))
          .store_n(to + i, int(pixel_stride - i < L ? pixel_stride - i : L));
  }
}

template <class V>
void blur_columns_transposed(const Params& p, const typename V::Scalar* taps,
                             const typename V::Scalar* dv, typename V::Scalar* m) {
  with_constant(TapCounts{}, p.w.n_taps,
                [&](auto known) { blur_columns_transposed_n<V, known()>(p, taps, dv, m); });
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
