// The generic kernels serve every geometry. Only the dtype is known at compile time, and one thread
// computes each element of the result. They implement the definition of the op: `choose` finds the
// winners, `gather` computes y = B S x, and `scatter` computes dx = S' B' dy. Forward is `choose`,
// then `gather`; apply is `gather` alone.
#pragma once

#include "cuda/codes.h"
#include "cuda/kernels/values.cuh"

namespace fastblur::cuda {

template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

FASTBLUR_DEVICE double to_float(double v) { return v; }
template <class T>
FASTBLUR_DEVICE T from_sum(Sum<T> v) {
  if constexpr (std::is_same_v<T, double>) return v;
  else return from_float<T>(v);
}

// The position of an element in a tensor with p's memory format. `of` computes it from the
// element's index in memory order. `number` computes the index of an element of the same image and
// channel, and `in_image` counts that index from the start of the image.
struct Place {
  int64_t image, channel, row, column;

  FASTBLUR_DEVICE static Place of(int64_t i, const Params& p, int64_t rows, int64_t columns) {
    Place at;
    if (p.channels_last) {
      at.channel = i % p.channels, i /= p.channels;
      at.column = i % columns, i /= columns;
      at.row = i % rows;
      at.image = i / rows;
    } else {
      at.column = i % columns, i /= columns;
      at.row = i % rows, i /= rows;
      at.channel = i % p.channels;
      at.image = i / p.channels;
    }
    return at;
  }
  FASTBLUR_DEVICE int64_t in_image(const Params& p, int64_t row, int64_t column, int64_t rows,
                                   int64_t columns) const {
    return p.channels_last ? (row * columns + column) * p.channels + channel
                           : (channel * rows + row) * columns + column;
  }
  FASTBLUR_DEVICE int64_t number(const Params& p, int64_t row, int64_t column, int64_t rows,
                                 int64_t columns) const {
    return image * p.channels * rows * columns + in_image(p, row, column, rows, columns);
  }
};

FASTBLUR_DEVICE int64_t thread_number() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

// Chooses the winner of each element of m. A warp writes the code words of one group of 32 elements
// (see codes.h).
template <class T>
__global__ void choose(const __grid_constant__ Params p, const T* x, uint32_t* codes,
                       int64_t groups_per_image, int64_t words_per_image) {
  const int64_t warp = thread_number() / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (warp >= groups_per_image * p.batch) return;
  const int64_t image = warp / groups_per_image, group = warp % groups_per_image;
  const int64_t m_h = p.h.pooled(), m_w = p.w.pooled(), per_image = m_per_image(p);
  const int64_t e = group * kWarp + lane;
  const bool exists = e < per_image;
  const Place at = Place::of(image * per_image + (exists ? e : 0), p, m_h, m_w);

  int winner_row = 0, winner_column = 0;
  bool any = false;
  Sum<T> best = 0;
  for (int r = p.h.first_candidate(at.row); r < p.h.end_candidate(at.row); ++r) {
    // S_h comes first: within a row of x, the leftmost of equal values wins.
    int column = 0;
    bool any_in_row = false;
    Sum<T> best_in_row = 0;
    for (int c = p.w.first_candidate(at.column); c < p.w.end_candidate(at.column); ++c) {
      const Sum<T> v = to_float(load(
          x + at.number(p, at.row - p.h.pad + r, at.column - p.w.pad + c, p.h.size, p.w.size)));
      if (!any_in_row || v > best_in_row || v != v) best_in_row = v, column = c, any_in_row = true;
    }
    if (!any || best_in_row > best || best_in_row != best_in_row)
      best = best_in_row, winner_row = r, winner_column = column, any = true;
  }
  if (p.relu && best <= 0) winner_row = p.h.pool;

  const int column_width = column_bits(p.w.pool), bits = p.code_bits();
  const unsigned code = exists ? unsigned(winner_column) | unsigned(winner_row) << column_width : 0;
  uint32_t* const words = codes + image * words_per_image + group * bits;
  for (int b = 0; b < bits; ++b) {
    const unsigned word = __ballot_sync(~0u, code >> b & 1);
    if (lane == 0) store(words + b, word);
  }
}

// The winner of element (row, column) of m: its position in x, or nobody.
template <bool kTiles>
struct Winner {
  int64_t row, column;
  bool nobody;

  FASTBLUR_DEVICE static Winner of(const Params& p, const uint32_t* codes, int64_t words_per_image,
                                   const Place& at, int64_t row, int64_t column) {
    if (p.linear()) return {row, column, false};
    const int64_t m_h = p.h.pooled(), m_w = p.w.pooled();
    const uint32_t* const image = codes + at.image * words_per_image;
    int r, c;
    bool nobody;
    if constexpr (kTiles) {
      const int k = p.h.pool, each = k - 1, per_row = kTileColumns * each;
      const TileRows rows{k, int(p.h.pad), p.h.n_taps};
      const int64_t top = rows.first_row(-rows.tile_shift());
      const int bytes = tile_code_bytes(k, p.relu);
      const auto code = [&](int64_t m_row) -> unsigned {
        const int64_t tile_row = (m_row - top) / kTileRows, tile = column / kTileColumns;
        const int64_t i = at.in_image(p, tile_row, tile, rows.count(m_h), tile_columns(m_w));
        const auto* const base = reinterpret_cast<const unsigned char*>(image);
        return bytes == 1   ? load(base + i)
               : bytes == 2 ? load(reinterpret_cast<const uint16_t*>(base) + i)
                            : load(reinterpret_cast<const uint32_t*>(base) + i);
      };
      const auto bit = [&](int64_t m_row) {
        return int((m_row - top) % kTileRows) * per_row + int(column % kTileColumns) * each;
      };
      const unsigned mask = (1u << each) - 1, mine = code(row);
      r = int(mine >> (2 * per_row + bit(row)) & mask);
      nobody =
          p.relu && (k == 3 ? r == 3
                            : mine >> (4 * per_row + int((row - top) % kTileRows) * kTileColumns +
                                       int(column % kTileColumns)) &
                                  1);
      if (nobody) return {0, 0, true};
      const int64_t of_x = row + r - k + 1;  // the row with the column winners of that row of x
      c = int(code(of_x) >> bit(of_x) & mask);
    } else {
      const int64_t e = at.in_image(p, row, column, m_h, m_w);
      const int column_width = column_bits(p.w.pool), bits = p.code_bits();
      const uint32_t* const words = image + e / kWarp * bits;
      unsigned code = 0;
      for (int b = 0; b < bits; ++b) code |= (load(words + b) >> e % kWarp & 1) << b;
      r = int(code >> column_width);
      c = int(code & ((1u << column_width) - 1));
      nobody = p.relu && r == p.h.pool;
    }
    return {row - p.h.pad + r, column - p.w.pad + c, nobody};
  }
};

// Computes y = B S x with given winners. One thread computes one element of y.
template <class T, bool kTiles>
__global__ void gather(const __grid_constant__ Params p, const T* x, const uint32_t* codes, T* y,
                       int64_t words_per_image, int64_t count) {
  const int64_t i = thread_number();
  if (i >= count) return;
  const Place at = Place::of(i, p, p.h.out(), p.w.out());
  Sum<T> sum = 0;
  for (int a = 0; a < p.h.n_taps; ++a) {
    const int64_t row = border_source(at.row * p.h.stride + a - p.h.before, p.h.pooled(), p.border);
    Sum<T> in_row = 0;
    for (int b = 0; row >= 0 && b < p.w.n_taps; ++b) {
      const int64_t column =
          border_source(at.column * p.w.stride + b - p.w.before, p.w.pooled(), p.border);
      if (column < 0) continue;
      const auto winner = Winner<kTiles>::of(p, codes, words_per_image, at, row, column);
      if (winner.nobody) continue;
      in_row += Sum<T>(p.taps_w[b]) *
                to_float(load(x + at.number(p, winner.row, winner.column, p.h.size, p.w.size)));
    }
    sum += Sum<T>(p.taps_h[a]) * in_row;
  }
  store(y + i, from_sum<T>(sum));
}

// Calls f(output, weight) for each output along one axis that reads element u of m, directly or as
// the source of padding.
template <class T, class F>
FASTBLUR_DEVICE void for_each_use(const Axis& axis, Border border, const double* taps, int64_t u,
                                  F f) {
  const int64_t out = axis.out(), stride = axis.stride;
  const auto at = [&](int64_t q) {
    const int64_t from_start = q + axis.before;  // = output * stride + tap
    int64_t i = from_start / stride;
    if (i >= out) i = out - 1;
    for (; i >= 0 && from_start - i * stride < axis.n_taps; --i)
      f(i, Sum<T>(taps[from_start - i * stride]));
  };
  at(u);
  for_each_copy(u, axis.pooled(), axis.before, axis.after, border, at);
}

// Computes dx = S' B' dy. One thread computes one element of dx from the windows that contain it.
template <class T>
__global__ void scatter(const __grid_constant__ Params p, const T* dy, const uint32_t* codes, T* dx,
                        int64_t words_per_image, int64_t count) {
  const int64_t i = thread_number();
  if (i >= count) return;
  const Place at = Place::of(i, p, p.h.size, p.w.size);
  const int64_t y_h = p.h.out(), y_w = p.w.out();
  Sum<T> sum = 0;
  for (int r = 0; r < p.h.pool; ++r) {
    const int64_t row = at.row + p.h.pad - r;
    if (row < 0 || row >= p.h.pooled()) continue;
    for (int c = 0; c < p.w.pool; ++c) {
      const int64_t column = at.column + p.w.pad - c;
      if (column < 0 || column >= p.w.pooled()) continue;
      const auto winner = Winner<false>::of(p, codes, words_per_image, at, row, column);
      if (winner.nobody || winner.row != at.row || winner.column != at.column) continue;
      for_each_use<T>(p.h, p.border, p.taps_h, row, [&](int64_t out_row, Sum<T> weight_h) {
        Sum<T> in_row = 0;
        for_each_use<T>(p.w, p.border, p.taps_w, column, [&](int64_t out_column, Sum<T> weight_w) {
          in_row += weight_w * to_float(load(dy + at.number(p, out_row, out_column, y_h, y_w)));
        });
        sum += weight_h * in_row;
      });
    }
  }
  store(dx + i, from_sum<T>(sum));
}

}  // namespace fastblur::cuda
