// Backward, channels_last:  dx = S_h' S_v' B_v' B_h' dy, where ' is the transpose.
//
// This is the sweep of backward_nchw.cuh, but a thread owns channels of a strip of columns
// (pixel.cuh). A thread also computes dm for the columns next to its strip whose winners can lie in
// the strip. The fast steps need a regular call (Call::regular).
#pragma once

#include "cuda/kernels/pixel.cuh"
#include "cuda/kernels/routing.cuh"
#include "cuda/launch/specialisation.h"

namespace fastblur::cuda {

template <class T, class S>
class BackwardNhwc {
  using Word = Packed<T>;
  static constexpr int K = S::kPool, P = S::kPad, F = S::kTaps, B = S::kBefore;
  static constexpr int kPerWord = Word::kPerWord;
  // A thread owns at most four channels, because the sums of more do not fit into the registers. It
  // owns two channels where there are many sums: kMany for float32, kVeryMany for 16-bit types.
  static constexpr bool kMany = K == 3 || (K == 2 && (F == 5 || S::kRelu));
  static constexpr bool kVeryMany =
      (K == 3 && (F >= 4 || (F == 3 && (S::kRelu || P == 0)))) || (K == 2 && F == 5 && S::kRelu);
  static constexpr int kWords = kPerWord == 1 ? (kMany ? 2 : 4) : (kVeryMany ? 1 : 2);
  static constexpr int R = K - 1 - P;  // columns of m that the window has before the strip
  static constexpr int kWindow = kStrip + K - 1;
  // The columns kFirstY to kLastY of y, counted from the strip's first, contribute to the window. A
  // column contributes directly, or because it is the last one and reads padding whose source is in
  // the window. In the second case it may belong to the next strip.
  static constexpr int kFirstY = -((R + F - 1 - B) / 2);
  static constexpr int last_y() {
    int last = (kStrip - 1 + P + B) / 2;
    for (int columns = 1; columns <= kStrip; ++columns)
      for (int t = 0; t < 2; ++t)
        if (padding_tap<F>(columns, t) < F && columns - 2 - t < P) {
          const int of = (columns + 1) / 2 + 1;
          if (of > last) last = of;
        }
    return last;
  }
  static constexpr int kLastY = last_y();
  static constexpr int kColumnsY = kLastY - kFirstY + 1;
  static constexpr int kHeld = K > 1 ? K - 1 : 1;
  static constexpr int kFirst = int(S::kRows.first_row(0));
  static constexpr bool kCodes = !S::kLinear;
  using Bits = typename S::Bits;
  using Code = typename S::Code;

 public:
  static constexpr int kChannels = kWords * kPerWord;
  // Blocks that fit on a multiprocessor, for __launch_bounds__.
  static constexpr int kBlocks = K > 1 && kMany == (kPerWord == 2) && !kVeryMany ? 3 : 4;

 private:
  static constexpr int kCodeWords = kChannels * int(sizeof(Code)) / 4;
  using Row = Cell<kWords>[kColumnsY];
  // The codes of the strip's own tile, and of those columns of the neighbouring tiles that are in
  // the window. These are at most the last two columns of the left tile or, with padding, the last
  // column of the left tile and the first of the right tile. These take different bits, so `beside`
  // has room for both.
  struct Codes {
    Cell<kCodeWords> own, beside;
  };
  static constexpr uint32_t kFirstColumn = 0x03030303u;  // column 0's bits in a TileCode, for K = 3
  static_assert(P == 0 || K == 3);

 public:
  FASTBLUR_DEVICE BackwardNhwc(const Call& c, int64_t unit)
      : c_(c), pixel_(c, unit, kChannels), left_(int(c.channels) - pixel_.channel) {
    const int64_t channels = c.channels;
    dy_ = static_cast<const T*>(c.in) + pixel_.image * c.y_h * c.y_w * channels + pixel_.channel;
    dx_ = static_cast<T*>(c.out) + (pixel_.image * c.h * c.w + kStrip * pixel_.strip) * channels +
          pixel_.channel;
    if constexpr (kCodes)
      codes_ = reinterpret_cast<const Code*>(static_cast<const unsigned char*>(c.codes) +
                                             pixel_.image * c.code_bytes_per_image) +
               pixel_.channel;
#pragma unroll
    for (int z = 0; z < kHeld; ++z)
#pragma unroll
      for (int i = 0; i < kChannels; ++i)
#pragma unroll
        for (int g = 0; g < kWindow; ++g) pending_[z][i][g] = 0;
  }

  static constexpr int kFirstStep = (P - kFirst) >> 1;
  static int steps(int h) { return ((h - 1 + P - kFirst) >> 1) - kFirstStep + 1; }

  FASTBLUR_DEVICE void run() {
    const int begin = kFirstStep + chunk_of_steps(c_) * c_.chunk;
    const int first = begin - S::kBackwardWarmUp;
    const int end = min(begin + c_.chunk, kFirstStep + c_.steps);
    const int fast_begin = max(first, (B + 2 - kFirst) >> 1);
    const int fast_end =
        min(min(end, c_.y_h - S::kSums + 1), ((c_.m_h - 3 - c_.after_h - kFirst) >> 1) + 1);
    int step = first;
    before_ = load_codes(step - 1, c_.wide_x);
    while (step < end) {
      if (c_.regular && step == fast_begin && step < fast_end) {
        fast_steps(step, fast_end, begin);
        step = fast_end;
      } else {
        edge_step(step, begin);
        ++step;
      }
    }
  }

 private:
  // Loads the codes for a step. A tile that does not exist gets the codes of the nearest one, which
  // is harmless: its elements have no gradient. With kPrefetches, also prefetches the strip's own
  // tile `ahead` steps further on.
  template <bool kPrefetches = false>
  FASTBLUR_DEVICE Codes load_codes(int step, bool wide, int ahead = 0) const {
    Codes codes = {};
    if constexpr (kCodes) {
      const int row = min(max(step + S::kRows.tile_shift(), 0), c_.tile_rows - 1);
      const auto load_tile = [&](int beside) {
        const int tile = min(max(pixel_.strip + beside, 0), c_.tile_columns - 1);
        const Code* const at = codes_ + (int64_t(row) * c_.tile_columns + tile) * c_.channels;
        if (kPrefetches && beside == 0)
          prefetch(at + int64_t(ahead) * c_.tile_columns * c_.channels);
        return load_vector<kCodeWords>(at, left_, wide);
      };
      codes.own = load_tile(0);
      if constexpr (R > 0) codes.beside = load_tile(-1);
      if constexpr (P > 0) {
        const auto right = load_tile(1);
#pragma unroll
        for (int q = 0; q < kCodeWords; ++q)
          codes.beside.at[q] = (codes.beside.at[q] & ~kFirstColumn) | (right.at[q] & kFirstColumn);
      }
    }
    return codes;
  }

  // Loads a row of dy. Columns that do not exist become zero. With kPrefetches, also prefetches the
  // strip's own columns `ahead` elements further on.
  template <bool kPrefetches = false>
  FASTBLUR_DEVICE void load_dy(const T* row, Row& dy, bool wide, int64_t ahead = 0) const {
#pragma unroll
    for (int j = 0; j < kColumnsY; ++j) {
      const int column = 2 * pixel_.strip + j + kFirstY;
      const int nearest = min(max(column, 0), c_.y_w - 1);
      const T* const at = row + int64_t(nearest) * c_.channels;
      if (kPrefetches && (j + kFirstY == 0 || j + kFirstY == 1)) prefetch(at + ahead);
      const auto cell = load_vector<kWords>(at, left_, wide);
#pragma unroll
      for (int q = 0; q < kWords; ++q) dy[j].at[q] = column == nearest ? cell.at[q] : 0;
    }
  }

  // Computes B_h' of channel i of a row of dy.
  template <bool kRegular>
  FASTBLUR_DEVICE void spread_columns(const Row& row, int i, float (&e)[kWindow]) const {
    float dy[kColumnsY];
#pragma unroll
    for (int j = 0; j < kColumnsY; ++j) dy[j] = Word::unpack(row[j].at[i / kPerWord], i % kPerWord);
#pragma unroll
    for (int g = 0; g < kWindow; ++g) {
      bool any = false;
#pragma unroll
      for (int j = 0; j < kColumnsY; ++j) {
        const int tap = g - R + B - 2 * (j + kFirstY);
        if (tap < 0 || tap >= F) continue;
        e[g] = any ? fmaf(c_.taps_w[tap], dy[j], e[g]) : c_.taps_w[tap] * dy[j];
        any = true;
      }
    }
    fold_columns<kRegular>(dy, e);
  }

  // Adds the gradient of the padding at the ends of a row to its sources, and clears the columns
  // outside the row.
  template <bool kRegular>
  FASTBLUR_DEVICE void fold_columns(const float (&dy)[kColumnsY], float (&e)[kWindow]) const {
    const bool reflect = kRegular || c_.border == Border::reflect;
    const bool replicate = !kRegular && c_.border == Border::replicate;
    constexpr int kRegularColumns = kStrip - (K - 1 - 2 * P);
    // If the first and the last column can each be in only one place of the window, a branch is
    // cheaper than add_if, and the arrays stay in registers.
    const auto add_here = [](bool here, float& sum, float a, float b) {
      if constexpr (!kRegular || R > 1) add_if(here, sum, a, b);
      else if (here) sum = fmaf(a, b, sum);
    };
    // Adds taps_w[tap] times column `of` of dy to column `to` of m, if `here` and if this is strip
    // `from`. Both columns are counted from the start of the row.
    const auto add = [&](bool here, int from, int to, int tap, int of) {
      const int g = to - kStrip * from + R, j = of - 2 * from - kFirstY;
      if (g < 0 || g >= kWindow || j < 0 || j >= kColumnsY) return;
      add_here(here && pixel_.strip == from, e[g], c_.taps_w[tap], dy[j]);
    };
#pragma unroll
    for (int g = 0; g < R; ++g) e[g] = pixel_.first ? 0 : e[g];
#pragma unroll
    for (int n = 1; n <= B; ++n) {
#pragma unroll
      for (int from = 0; from <= 1; ++from) {
        add(reflect, from, n, B - n, 0);
        if (!kRegular) add(replicate, from, 0, B - n, 0);
      }
    }
#pragma unroll
    for (int columns = 1; columns <= kStrip; ++columns) {
      if (kRegular && columns != kRegularColumns) continue;
#pragma unroll
      for (int from = -1; from <= 1; ++from) {
        if (kRegular && from == 1) continue;  // the strip with the last column is the last strip
        const bool here =
            (kRegular || c_.last_columns == columns) && pixel_.strip == c_.last_group + from;
        const int last = columns - 1 - kStrip * from, of = (columns + 1) / 2 - 1 - 2 * from;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          const int tap = padding_tap<F>(columns, t), j = of - kFirstY;
          if (tap >= F || j < 0 || j >= kColumnsY) continue;
          const int mirrored = last - 1 - t + R, same = last + R;
          if (mirrored >= 0 && mirrored < kWindow)
            add_here(here && reflect, e[mirrored], c_.taps_w[tap], dy[j]);
          if (!kRegular && same >= 0 && same < kWindow)
            add_here(here && replicate, e[same], c_.taps_w[tap], dy[j]);
        }
#pragma unroll
        for (int g = 0; g < kWindow; ++g)
          if (g > last + R) e[g] = here ? 0 : e[g];
      }
    }
  }

  // The code word of channel i for column g of the window, and the bit in it where the column
  // winner in row e begins.
  FASTBLUR_DEVICE static uint32_t bits_of(const Codes& codes, int g, int i) {
    const bool own = g >= R && g < R + kStrip;
    return (own ? codes.own : codes.beside).at[i * int(sizeof(Code)) / 4];
  }
  static constexpr int column_of(int g) { return (g - R + kStrip) % kStrip; }  // in its tile
  static constexpr int place_of(int g, int e, int i) {
    return i * int(sizeof(Code)) % 4 * 8 + Bits::at(e, column_of(g));
  }

  // S_v' and S_h': routes row r = 2 * step + kFirst + e of dm, channel i. Row e of the tiles has
  // the row winners. Sets dx to the strip's part of row r - P, which this completes.
  FASTBLUR_DEVICE void route(const float (&dm)[kWindow], int i, const Codes& codes, int e,
                             float (&dx)[kStrip]) {
    float whole[kWindow];
#pragma unroll
    for (int g = 0; g < kWindow; ++g) {
      float d = dm[g];
      if constexpr (S::kRelu) {
        const uint32_t bits = bits_of(codes, g, i);
        const int shift = i * int(sizeof(Code)) % 4 * 8;
        const int at = Bits::kNobodyApart ? shift + Bits::kNobody + e * kTileColumns + column_of(g)
                                          : place_of(g, e, i) + Bits::kRowWinners;
        const bool nobody = Bits::kNobodyApart ? bits >> at & 1 : (bits >> at & 3) == 3;
        d = nobody ? 0 : d;
      }
      if constexpr (K == 1) {
        whole[g] = d;
      } else {
        const uint32_t bits = bits_of(codes, g, i);
        const int at = Bits::kRowWinners + place_of(g, e, i);
        whole[g] = pending_[0][i][g];
        if (won<K>(bits, at, 0)) whole[g] += d;
#pragma unroll
        for (int z = 1; z + 1 < K; ++z) {
          pending_[z - 1][i][g] = pending_[z < kHeld ? z : 0][i][g];
          if (won<K>(bits, at, z)) pending_[z - 1][i][g] += d;
        }
        pending_[kHeld - 1][i][g] = won<K>(bits, at, K - 1) ? d : 0;
      }
    }
    // The tiles have the column winners of row r - P of x in row r - (K - 1) of m (see codes.h).
    const auto column_won = [&](int g, int z) {
      const uint32_t now = bits_of(codes, g, i), before = bits_of(before_, g, i);
      return won<K>(K == 3 || e == 0 ? before : now, place_of(g, K == 2 ? 1 - e : e, i), z);
    };
#pragma unroll
    for (int k = 0; k < kStrip; ++k) {
      if constexpr (K == 1) {
        dx[k] = whole[k];
      } else {
        dx[k] = column_won(k, K - 1) ? whole[k] : 0;
#pragma unroll
        for (int z = K - 2; z >= 0; --z) {
          const int g = k + K - 1 - z;
          if (column_won(g, z)) dx[k] += whole[g];
        }
      }
    }
  }

  FASTBLUR_DEVICE void store_dx(T* row, const Cell<kWords> (&dx)[kStrip], bool regular) const {
#pragma unroll
    for (int k = 0; k < kStrip; ++k)
      if (regular || kStrip * pixel_.strip + k < c_.w)
        store_cell<T, kWords>(row + k * c_.channels, left_, regular || c_.wide_x, dx[k]);
  }

  // Packs the channels of word q of the strip's four columns.
  static FASTBLUR_DEVICE void collect(const float (&dx)[kPerWord][kStrip], int q,
                                      Cell<kWords> (&out)[kStrip]) {
#pragma unroll
    for (int k = 0; k < kStrip; ++k) {
      float v[2] = {dx[0][k], dx[kPerWord - 1][k]};
      out[k].at[q] = Word::pack(v);
    }
  }

  FASTBLUR_DEVICE void fast_steps(int step, int end, int begin) {
    constexpr int D = S::kSums;
    const int64_t x_row = int64_t(c_.w) * c_.channels, y_row = int64_t(c_.y_w) * c_.channels;
    float e[D][kChannels][kWindow];
    Row row;
    const T* dy = dy_ + step * y_row;
#pragma unroll
    for (int d = 0; d + 1 < D; ++d) {
      load_dy(dy, row, true);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) spread_columns<true>(row, i, e[d][i]);
      dy += y_row;
    }
    T* dx = dx_ + (2 * step + kFirst - P) * x_row;
#pragma unroll 1
    for (; step < end; ++step) {
      const int ahead = step + kPrefetchSteps < end ? kPrefetchSteps : 0;
      load_dy<true>(dy, row, true, ahead * y_row);
      const Codes codes = load_codes<true>(step, true, ahead);
      dy += y_row;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (r == F % 2) {  // the first row of dm that needs the newest row of dy
#pragma unroll
          for (int i = 0; i < kChannels; ++i) spread_columns<true>(row, i, e[D - 1][i]);
        }
        Cell<kWords> out[kStrip];
#pragma unroll
        for (int q = 0; q < kWords; ++q) {
          float own[kPerWord][kStrip];
#pragma unroll
          for (int n = 0; n < kPerWord; ++n) {
            const int i = q * kPerWord + n;
            float dm[kWindow];
#pragma unroll
            for (int g = 0; g < kWindow; ++g) {
              dm[g] = c_.taps_h[F - 2 + r] * e[0][i][g];
#pragma unroll
              for (int d = 1; d < D; ++d) {
                const int tap = F - 2 + r - 2 * d;
                if (tap >= 0) dm[g] = fmaf(c_.taps_h[tap], e[d][i][g], dm[g]);
              }
            }
            route(dm, i, codes, r, own[n]);
          }
          collect(own, q, out);
        }
        if (step >= begin) store_dx(dx + r * x_row, out, true);
      }
#pragma unroll
      for (int d = 0; d + 1 < D; ++d)
#pragma unroll
        for (int i = 0; i < kChannels; ++i)
#pragma unroll
          for (int g = 0; g < kWindow; ++g) e[d][i][g] = e[d + 1][i][g];
      dx += 2 * x_row;
      before_ = codes;
    }
  }

  FASTBLUR_DEVICE void edge_step(int step, int begin) {
    rarely();
    const Codes codes = load_codes(step, c_.wide_x);
#pragma unroll 1
    for (int e = 0; e < 2; ++e) {
      const int r = 2 * step + kFirst + e;
      float dm[kChannels][kWindow];
#pragma unroll
      for (int i = 0; i < kChannels; ++i)
#pragma unroll
        for (int g = 0; g < kWindow; ++g) dm[i][g] = 0;
      if (r >= 0 && r < c_.m_h) {
        for_each_padded(r, c_.m_h, c_.after_h, B, c_.border, [&](int p) {
          for_each_output<F>(p + B, c_.y_h, c_.taps_h, [&](int i, float tap) {
            Row row;
            load_dy(dy_ + int64_t(i) * c_.y_w * c_.channels, row, c_.wide_y);
#pragma unroll
            for (int k = 0; k < kChannels; ++k) {
              float part[kWindow];
              spread_columns<false>(row, k, part);
#pragma unroll
              for (int g = 0; g < kWindow; ++g) dm[k][g] = fmaf(tap, part[g], dm[k][g]);
            }
          });
        });
      }
      Cell<kWords> out[kStrip];
#pragma unroll
      for (int q = 0; q < kWords; ++q) {
        float own[kPerWord][kStrip];
#pragma unroll
        for (int n = 0; n < kPerWord; ++n)
          route(dm[q * kPerWord + n], q * kPerWord + n, codes, e, own[n]);
        collect(own, q, out);
      }
      const int row = r - P;
      if (step >= begin && row >= 0 && row < c_.h)
        store_dx(dx_ + int64_t(row) * c_.w * c_.channels, out, false);
    }
    before_ = codes;
  }

  const Call& c_;
  const Pixel pixel_;
  const int left_;  // channels from the thread's first to the last
  const T* dy_;     // the thread's first channel in pixel 0; codes_ likewise
  T* dx_;           // the same in the strip's first pixel
  const Code* codes_ = nullptr;
  Codes before_;  // codes of the previous step
  // Gradients so far of the partial rows of x, oldest first.
  float pending_[kHeld][kChannels][kWindow];
};

template <class T, class S, int kChannels = BackwardNhwc<T, S>::kChannels>
__global__ void __launch_bounds__(kPixelThreads, BackwardNhwc<T, S>::kBlocks)
    backward_nhwc(const __grid_constant__ Call call) {
  const int64_t unit = part_of_units(call) * kPixelThreads + threadIdx.x;
  if (unit < call.units) BackwardNhwc<T, S>(call, unit).run();
}

}  // namespace fastblur::cuda
