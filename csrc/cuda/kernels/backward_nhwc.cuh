// Backward, channels_last:  dx = S_h' S_v' B_v' B_h' dy, where ' is the transpose.
//
// This is the sweep of backward_nchw.cuh, but a thread owns channels of a strip of columns
// (pixel.cuh). A thread also computes dm for the columns next to its strip whose winners can lie in
// the strip.
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
  // The columns kFirstY to kLastY of y, counted from the strip's first, contribute to the window.
  // The last column of a row can reach one column of m further back (ColumnWeights::reaching).
  static constexpr int kFirstY = -((R + F - 1 - B) / 2);
  static constexpr bool kReachesBack = F % 2 == 0;
  static constexpr int last_y(bool ends) {
    return (kStrip - 1 + P + B + (ends && kReachesBack ? 1 : 0)) / 2;
  }
  static constexpr int kLastY = last_y(true);
  static constexpr int kColumnsY = kLastY - kFirstY + 1;
  static_assert(-kFirstY <= ColumnWeights::kBefore && kLastY + 2 <= ColumnWeights::kAfter,
                "the last strip begins at most two columns of y after the last one");
  static constexpr int kHeld = K > 1 ? K - 1 : 1;
  static constexpr int D = S::kSums;  // rows of dy that a step reads
  using Place = RowPlace<S>;
  static constexpr int kFirst = int(S::kRows.first_row(0));
  static constexpr bool kCodes = !S::kLinear;
  using Bits = typename S::Bits;
  using Code = typename S::Code;

 public:
  static constexpr int kChannels = kWords * kPerWord;
  // Blocks that fit on a multiprocessor, for __launch_bounds__.
  static constexpr int kBlocks = K == 1 ? (F <= 3 ? 6 : 9 - F)
                                 : (K == 3 || F == 5) && kPerWord == 2 && !kVeryMany ? 3
                                                                                     : 4;

 private:
  static constexpr int kCodeWords = kChannels * int(sizeof(Code)) / 4;
  using Row = Cell<kWords>[kColumnsY];
  using Window = float[kWords * kPerWord][kWindow];  // a row of dm or of B_h' dy
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
    before_ = load_codes<true>(tiles_of(first - 1), c_.wide_x);
#pragma unroll
    for (int d = 0; d + 1 < D; ++d) spread_row(first + d, e_[d]);
    const bool fast = c_.wide_x && c_.wide_y && fast_begin < fast_end;
    border_steps(first, fast ? fast_begin : end, begin);
    if (!fast) return;
    if (interior_) march<false, false>(fast_begin, fast_end, begin);
    else march<true, false>(fast_begin, fast_end, begin);
    border_steps(fast_end, end, begin);
  }

 private:
  // Loads the codes of a row of tiles. `tiles` is the first tile of the row or, if not kEnds, the
  // strip's. At the ends of a row, a tile that does not exist gets the codes of the nearest one,
  // which is harmless: its elements have no gradient. Also prefetches the strip's own tile `ahead`
  // bytes further on, if that is not 0.
  template <bool kEnds>
  FASTBLUR_DEVICE Codes load_codes(const Code* tiles, bool wide, int64_t ahead = 0) const {
    Codes codes = {};
    if constexpr (kCodes) {
      const auto load_tile = [&](int beside, int64_t ahead) {
        const int tile = kEnds ? min(max(pixel_.strip + beside, 0), c_.tile_columns - 1) : beside;
        const Code* const at = plus_bytes(tiles, int64_t(tile) * c_.tile);
        if (ahead) prefetch(plus_bytes(at, ahead));
        return load_vector<kCodeWords>(at, left_, wide);
      };
      codes.own = load_tile(0, ahead);
      if constexpr (R > 0) codes.beside = load_tile(-1, 0);
      if constexpr (P > 0) {
        const auto right = load_tile(1, 0);
#pragma unroll
        for (int q = 0; q < kCodeWords; ++q)
          codes.beside.at[q] = (codes.beside.at[q] & ~kFirstColumn) | (right.at[q] & kFirstColumn);
      }
    }
    return codes;
  }
  // The first tile in the row of tiles of a step, or in the nearest row that exists.
  FASTBLUR_DEVICE const Code* tiles_of(int step) const {
    const int row = min(max(step + S::kRows.tile_shift(), 0), c_.tile_rows - 1);
    return plus_bytes(codes_, row * c_.tile_row);
  }

  // Loads a row of dy. `row` is its first pixel or, if not kEnds, the strip's first. Columns that
  // do not exist become zero. Also prefetches the strip's own columns `ahead` bytes further on, if
  // that is not 0.
  template <bool kEnds>
  FASTBLUR_DEVICE void load_dy(const T* row, Row& dy, bool wide, int64_t ahead = 0) const {
#pragma unroll
    for (int j = 0; j + kFirstY <= last_y(kEnds); ++j) {
      const int column = (kEnds ? 2 * pixel_.strip : 0) + j + kFirstY;
      const int nearest = kEnds ? min(max(column, 0), c_.y_w - 1) : column;
      const T* const at = plus_bytes(row, int64_t(nearest) * c_.pixel);
      if (ahead && (j + kFirstY == 0 || j + kFirstY == 1)) prefetch(plus_bytes(at, ahead));
      const auto cell = load_vector<kWords>(at, left_, wide);
#pragma unroll
      for (int q = 0; q < kWords; ++q) dy[j].at[q] = column == nearest ? cell.at[q] : 0;
    }
  }

  // Computes B_h' of channel i of a row of dy. Columns outside the row get no gradient. At the ends
  // of a row, `line` is the line of ColumnWeights for the strip's first output.
  template <bool kEnds>
  FASTBLUR_DEVICE void spread_columns(const Row& row, int i, int line, float (&e)[kWindow]) const {
    float dy[kColumnsY];
#pragma unroll
    for (int j = 0; j + kFirstY <= last_y(kEnds); ++j)
      dy[j] = Word::unpack(row[j].at[i / kPerWord], i % kPerWord);
#pragma unroll
    for (int g = 0; g < kWindow; ++g) {
      bool any = false;
#pragma unroll
      for (int j = 0; j < kColumnsY; ++j) {
        const int tap = g - R + B - 2 * (j + kFirstY), column = 2 * pixel_.strip + j + kFirstY;
        if (tap >= 0 && tap < F) {
          const float weight = kEnds ? c_.weights.of[line + j + kFirstY][1 + tap] : c_.taps_w[tap];
          e[g] = any ? fmaf(weight, dy[j], e[g]) : weight * dy[j];
          any = true;
        } else if (kEnds && kReachesBack && tap == -1) {
          add_if(column == c_.weights.reaching, e[g], c_.weights.of[line + j + kFirstY][0], dy[j]);
        }
      }
      const int column = kStrip * pixel_.strip + g - R;
      if (kEnds) e[g] = unsigned(column) < unsigned(c_.m_w) ? e[g] : 0;
    }
  }

  // Loads row i of dy, or zeros if there is no such row. For all strips and alignments.
  FASTBLUR_DEVICE void load_row(int i, Row& row) const {
#pragma unroll
    for (int j = 0; j < kColumnsY; ++j) row[j] = {};
    if (i >= 0 && i < c_.y_h) load_dy<true>(plus_bytes(dy_, i * c_.y_row), row, c_.wide_y);
  }
  FASTBLUR_DEVICE void spread_row(int i, Window& e) const {
    Row row;
    load_row(i, row);
    const int line = pixel_.line(c_);
#pragma unroll
    for (int k = 0; k < kChannels; ++k) spread_columns<true>(row, k, line, e[k]);
  }

  // The code word of channel i for column g of the window, and the bit in it where the column
  // winner in row e begins.
  FASTBLUR_DEVICE static uint32_t bits_of(const Codes& codes, int g, int i) {
    const bool own = g >= R && g < R + kStrip;
    return (own ? codes.own : codes.beside).at[i * int(sizeof(Code)) / 4];
  }
  static constexpr int column_of(int g) { return (g - R + kStrip) % kStrip; }  // in its tile
  static constexpr int bit_of(int g, int e, int i) {
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
                                          : bit_of(g, e, i) + Bits::kRowWinners;
        const bool nobody = Bits::kNobodyApart ? bits >> at & 1 : (bits >> at & 3) == 3;
        d = nobody ? 0 : d;
      }
      if constexpr (K == 1) {
        whole[g] = d;
      } else {
        const uint32_t bits = bits_of(codes, g, i);
        const int at = Bits::kRowWinners + bit_of(g, e, i);
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
      return won<K>(K == 3 || e == 0 ? before : now, bit_of(g, K == 2 ? 1 - e : e, i), z);
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

  using Pixels = Cell<kWords>[kStrip];  // the strip's pixels in a row of dx

  template <bool kEnds>
  FASTBLUR_DEVICE void store_dx(T* row, const Pixels& dx, bool wide) const {
#pragma unroll
    for (int k = 0; k < kStrip; ++k)
      if (!kEnds || kStrip * pixel_.strip + k < c_.w)
        store_cell<T, kWords>(plus_bytes(row, int64_t(k) * c_.pixel), left_, wide, dx[k]);
  }

  // Routes row r of a step's two rows of dm; dm_of(i, dm) computes it for channel i. Sets dx to the
  // strip's part of the row that this completes.
  template <class DmOf>
  FASTBLUR_DEVICE void route_row(const Codes& codes, int r, DmOf dm_of, Pixels& dx) {
#pragma unroll
    for (int q = 0; q < kWords; ++q) {
      float own[kPerWord][kStrip];
#pragma unroll
      for (int n = 0; n < kPerWord; ++n) {
        float dm[kWindow];
        dm_of(q * kPerWord + n, dm);
        route(dm, q * kPerWord + n, codes, r, own[n]);
      }
#pragma unroll
      for (int k = 0; k < kStrip; ++k) {
        float v[2] = {own[0][k], own[kPerWord - 1][k]};
        dx[k].at[q] = Word::pack(v);
      }
    }
  }

  // Computes B_v': row r of a step's two rows of dm, channel i, from the rows of B_h' dy that the
  // step reads.
  FASTBLUR_DEVICE void spread_rows(int i, int r, float (&dm)[kWindow]) const {
#pragma unroll
    for (int g = 0; g < kWindow; ++g) {
      dm[g] = c_.taps_h[F - 2 + r] * e_[0][i][g];
#pragma unroll
      for (int d = 1; d < D; ++d) {
        const int tap = F - 2 + r - 2 * d;
        if (tap >= 0) dm[g] = fmaf(c_.taps_h[tap], e_[d][i][g], dm[g]);
      }
    }
  }

  // Adds to a row of dm, channel i, what its copies in the padding receive. `reaching` is the last
  // row of dy if it reaches the row.
  FASTBLUR_DEVICE void add_padding(const Place& place, const Row& reaching, int i, int line,
                                   float (&dm)[kWindow]) const {
    place.for_each_copy([&](int d, float tap) {
#pragma unroll
      for (int g = 0; g < kWindow; ++g) dm[g] = fmaf(tap, e_[d][i][g], dm[g]);
    });
    if (place.reached) {
      float e[kWindow];
      spread_columns<true>(reaching, i, line, e);
#pragma unroll
      for (int g = 0; g < kWindow; ++g) dm[g] = fmaf(c_.taps_h[F - 1], e[g], dm[g]);
    }
#pragma unroll
    for (int g = 0; g < kWindow; ++g) dm[g] = place.exists ? dm[g] : 0;
  }

  // The next step reads the same rows of dy but the first.
  FASTBLUR_DEVICE void move_on(const Codes& codes) {
    before_ = codes;
#pragma unroll
    for (int d = 0; d + 1 < D; ++d)
#pragma unroll
      for (int i = 0; i < kChannels; ++i)
#pragma unroll
        for (int g = 0; g < kWindow; ++g) e_[d][i][g] = e_[d + 1][i][g];
  }

  // Does the steps from `step` to `end`. With kBorder, they may be any steps.
  template <bool kEnds, bool kBorder>
  FASTBLUR_DEVICE void march(int step, int end, int begin) {
    const int own_line = pixel_.line(c_);
    Row row;
    const T* dy = plus_bytes(dy_, (step + D - 1) * c_.y_row);
    const Code* tiles = tiles_of(step);
    if (!kEnds) {
      dy = plus_bytes(dy, int64_t(2 * pixel_.strip) * c_.pixel);
      tiles = plus_bytes(tiles, int64_t(pixel_.strip) * c_.tile);
    }
    T* dx = plus_bytes(dx_, (2 * step + kFirst - P) * c_.x_row);
#pragma unroll 1
    for (; step < end; ++step) {
      if constexpr (kBorder) {
        rarely();
        pixel_.strip = anew(pixel_.strip);  // there are no registers to keep what follows from it
      }
      const int line = kBorder ? pixel_.line(c_) : anew(own_line);
      const int ahead = !kBorder && step + kPrefetchSteps < end ? kPrefetchSteps : 0;
      if constexpr (kBorder) load_row(step + D - 1, row);
      else load_dy<kEnds>(dy, row, true, ahead * c_.y_row);
      const Codes codes = load_codes<kEnds>(kBorder ? tiles_of(step) : tiles,
                                            kBorder ? c_.wide_x : true, ahead * c_.tile_row);
      dy = plus_bytes(dy, c_.y_row);
      tiles = plus_bytes(tiles, c_.tile_row);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (r == (kBorder ? 0 : F % 2)) {  // the first row of dm that needs the newest row of dy
#pragma unroll
          for (int i = 0; i < kChannels; ++i) spread_columns<kEnds>(row, i, line, e_[D - 1][i]);
        }
        Pixels out;
        const Place place(c_, step, r);
        if (kBorder && place.reached) load_row(step + D, row);
        const auto dm_of = [&](int i, float (&dm)[kWindow]) {
          spread_rows(i, r, dm);
          if constexpr (kBorder) add_padding(place, row, i, line, dm);
        };
        route_row(codes, r, dm_of, out);
        const bool exists = !kBorder || unsigned(place.row - P) < unsigned(c_.h);
        if (step >= begin && exists) store_dx<kEnds>(dx, out, kBorder ? c_.wide_x : true);
        dx = plus_bytes(dx, c_.x_row);
      }
      move_on(codes);
    }
  }
  FASTBLUR_DEVICE void border_steps(int step, int end, int begin) {
    march<true, true>(step, end, begin);
  }

  const Call& c_;
  Pixel pixel_;
  const int left_;  // channels from the thread's first to the last
  const bool interior_ = pixel_.interior(c_, 0, kStrip - 1, kFirstY, last_y(false));
  const T* dy_;  // the thread's first channel in pixel 0; codes_ likewise
  T* dx_;        // the same in the strip's first pixel
  const Code* codes_ = nullptr;
  Codes before_;  // codes of the previous step
  Window e_[D];   // B_h' of the rows of dy from row `step` on
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
