// Forward, channels_last:  y = B_v B_h S_v S_h x.
//
// This is the sweep of forward_nchw.cuh with the same two kinds of steps, but a thread owns
// channels of a strip of columns (pixel.cuh). The horizontal blur comes before the vertical one: it
// leaves two columns per row to sum, while the window of the strip has F + 2.
#pragma once

#include "cuda/kernels/exact_tile.cuh"
#include "cuda/kernels/pixel.cuh"

namespace fastblur::cuda {

template <class T, class S, bool kCodes>
class ForwardNhwc {
  using Word = Packed<T>;
  static constexpr int K = S::kPool, P = S::kPad, F = S::kTaps, B = S::kBefore;
  // The size of a thread's vector in words. It has 16 bytes for a blur, and for float32 with max 2
  // and up to 4 taps. Otherwise it has 8 bytes, or 4 for the largest size: a larger vector would
  // leave registers for fewer blocks, or not fit into the registers.
  static constexpr bool kMany = K > 1 && (F == 5 || K == 3 || Word::kPerWord == 2);
  static constexpr int kWords = !kMany ? 4 : K == 3 && F == 5 && S::kRelu ? 1 : 2;
  static constexpr int kPerWord = Word::kPerWord;
  static constexpr int kWindow = F + 2;             // columns of m, B of them before the strip
  static constexpr int kColumns = kWindow + K - 1;  // columns of x, B + P of them before the strip
  static constexpr int kHeld = K > 1 ? K - 1 : 1;
  static constexpr int kFirst = int(S::kRows.first_row(0));
  static constexpr int kStepOfRow0 = -kFirst;
  using Bits = typename S::Bits;
  using Code = typename S::Code;
  using Codes = PixelCodes<T, Code, kWords>;
  struct Columns {
    Cell<kWords> at[kColumns];
  };
  using Window = uint32_t[kWindow];  // one word of each column
  // The other kernels wait for nothing but memory, and were slower with prefetches.
  static constexpr bool kPrefetches = kCodes && K == 3;

 public:
  static constexpr int kChannels = kWords * kPerWord;
  // Blocks that fit on a multiprocessor, for __launch_bounds__.
  static constexpr int kBlocks = kWords == 1 && (P == 0 || kPerWord == 1) ? 5
                                 : K == 1 || kPerWord == 1                ? 3
                                 : K == 3 && F == 5                       ? 3
                                 : F < 5 && (K == 2 || F == 2)            ? 5
                                                                          : 4;

  FASTBLUR_DEVICE ForwardNhwc(const Call& c, int64_t unit)
      : c_(c), pixel_(c, unit, kChannels), left_(int(c.channels) - pixel_.channel) {
    const int64_t channels = c.channels;
    x_ = static_cast<const T*>(c.in) + pixel_.image * c.h * c.w * channels + pixel_.channel;
    y_ = static_cast<T*>(c.out) + (pixel_.image * c.y_h * c.y_w + 2 * pixel_.strip) * channels +
         pixel_.channel;
    if constexpr (kCodes)
      codes_ = reinterpret_cast<Code*>(static_cast<unsigned char*>(c.codes) +
                                       pixel_.image * c.code_bytes_per_image) +
               pixel_.strip * channels + pixel_.channel;
#pragma unroll
    for (int d = 0; d < S::kSums; ++d)
#pragma unroll
      for (int o = 0; o < 2; ++o)
#pragma unroll
        for (int i = 0; i < kChannels; ++i) sum_[d][o][i] = 0;
  }

  FASTBLUR_DEVICE void run() {
    const int begin = chunk_of_steps(c_) * c_.chunk, first = begin - S::kWarmUp;
    const int end = min(begin + c_.chunk, c_.steps);
    const int fast_begin = max(first, kStepOfRow0 + 1);
    const int fast_end = min(min(end, c_.y_h), ((c_.m_h - P - 2 - kFirst) >> 1) + 1);
    int step = first;
    while (step < end) {
      if (c_.wide_x && c_.wide_y && step == fast_begin && step < fast_end) {
        if (interior_) fast_steps<false>(step, fast_end, begin);
        else fast_steps<true>(step, fast_end, begin);
        step = fast_end;
      } else {
        edge_step(step, begin);
        ++step;
      }
    }
  }

 private:
  // If the strip's first output is the last of the row and reaches back (ColumnWeights), it reads a
  // column of m before the window. The window then holds this column in place of the strip's fourth
  // column, which does not exist.
  static constexpr int kSpareColumn = B + 3;  // its place in the window
  static constexpr bool kReachesBack = F % 2 == 0;
  FASTBLUR_DEVICE bool reaches_back(int o) const {
    return kReachesBack && 2 * pixel_.strip + o == c_.weights.reaching;
  }

  // Loads the columns of a row of x that the window needs, all vectors at once if they are `wide`.
  // `row` is the row's first pixel or, if not kEnds, the strip's. At the ends of a row, the nearest
  // column stands in for one that does not exist. This is harmless in a max, because an equal value
  // never takes over. (At the left end, store_codes corrects the winner.) Also prefetches the
  // strip's own columns `ahead` bytes further on, if that is not 0.
  template <bool kEnds>
  FASTBLUR_DEVICE Columns load_columns(const T* row, bool wide, int64_t ahead = 0) const {
    const auto at = [&](int j) {
      int column = j - B - P;
      if (kEnds) {
        const bool moved = j >= kSpareColumn && reaches_back(0);
        column += kStrip * pixel_.strip - (moved ? kSpareColumn + 1 : 0);
        column = min(max(column, 0), c_.w - 1);
      }
      return plus_bytes(row, int64_t(column) * c_.pixel);
    };
    Columns x;
    if (wide) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (ahead && j >= B + P && j < B + P + kStrip) prefetch(plus_bytes(at(j), ahead));
        x.at[j] = load_vector<kWords>(at(j), left_, true);
      }
    } else {
      // The loop loads one word of each vector at a time, so that few loads are in flight. The
      // kernel has no registers for more.
      x = {};
#pragma unroll 1
      for (int q = 0; q < kWords; ++q) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const auto word = load_vector<1>(at(j) + q * kPerWord, left_ - q * kPerWord, false);
#pragma unroll
          for (int k = 0; k + 1 < kWords; ++k) x.at[j].at[k] = x.at[j].at[k + 1];
          x.at[j].at[kWords - 1] = word.at[0];
        }
      }
    }
    return x;
  }
  // The same of row r of x, or of the nearest row that exists. Works for every strip and alignment.
  FASTBLUR_DEVICE Columns load_nearest(int r) const {
    return load_columns<true>(plus_bytes(x_, min(max(r, 0), c_.h - 1) * c_.x_row), c_.wide_x);
  }

  // Compares the next candidate `later` with `best`. If it takes over, bit `at` of the tile is set,
  // but only if `counts`.
  static FASTBLUR_DEVICE uint32_t choose(uint32_t best, uint32_t later, Codes& code, int at, int q,
                                         bool counts) {
    if (!kCodes || !counts) return Word::larger(best, later);
    return Word::take(best, later, code.of(at, q), Codes::bit(at));
  }
  // Whether column c of the window belongs to the strip. The winners of these columns are kept.
  static constexpr bool is_own(int c) { return c >= B && c < B + kStrip; }

  // Computes S_h of word q of a row of x. The column winners go to row e of the tile.
  FASTBLUR_DEVICE void select_columns(const Columns& x, int q, Window& best, int e,
                                      Codes& code) const {
#pragma unroll
    for (int c = 0; c < kWindow; ++c) {
      best[c] = x.at[c].at[q];
#pragma unroll
      for (int z = 1; z < K; ++z)
        best[c] =
            choose(best[c], x.at[c + z].at[q], code, Bits::at(e, c - B) + z - 1, q, is_own(c));
    }
  }

  // Computes S_v of the held rows and the newest row, then ReLU. The row winners go to row e of the
  // tile. The newest row then becomes a held row.
  FASTBLUR_DEVICE void select_rows(const Window& newest, int q, Window& m, int e, Codes& code,
                                   Codes& nobody) {
#pragma unroll
    for (int c = 0; c < kWindow; ++c) {
      const int at = Bits::kRowWinners + Bits::at(e, c - B);
      m[c] = K > 1 ? held_[0][q][c] : newest[c];
#pragma unroll
      for (int z = 1; z < K; ++z)
        m[c] = choose(m[c], z == K - 1 ? newest[c] : held_[z < kHeld ? z : 0][q][c], code,
                      at + z - 1, q, is_own(c));
      if constexpr (S::kRelu) {
        const uint32_t none = Word::nobody(m[c]);
        m[c] &= ~none;
        if (is_own(c)) {
          const int first = Bits::kNobodyApart ? Bits::kNobody + e * kTileColumns + c - B : at;
          const uint32_t bits = Bits::kNobodyApart ? 1 : 3;
          nobody.of(first, q) |= none & Codes::bit(first) * bits * Word::kEach;
        }
      } else if constexpr (!kCodes) {
        m[c] = Word::larger(m[c], floor_);
      }
#pragma unroll
      for (int z = 0; z + 1 < K; ++z)
        held_[z][q][c] = z + 2 < K ? held_[z + 1 < kHeld ? z + 1 : 0][q][c] : newest[c];
    }
  }

  // Clears the columns of the window that do not exist, so that a weight of zero ignores them. All
  // columns that an interior strip reads exist.
  template <bool kEnds>
  FASTBLUR_DEVICE void clear_columns(Window& m) const {
#pragma unroll
    for (int c = 0; c < kWindow; ++c) {
      const int column = kStrip * pixel_.strip - B + c;
      const bool spare = c == kSpareColumn && reaches_back(0);
      if (kEnds && c != B) m[c] = spare || unsigned(column) < unsigned(c_.m_w) ? m[c] : 0;
    }
  }

  // The tap with which row step + d of y reads row e of the step's two rows of m: whether it
  // exists, and its value. In an edge step, e is known only at run time.
  template <bool kEdge>
  static constexpr bool has_tap(int d, int e) {
    const int tap = F - 2 + e - 2 * d;
    return kEdge ? F - 1 - 2 * d >= 0 : tap >= 0 && tap < F;
  }
  template <bool kEdge>
  FASTBLUR_DEVICE float tap_of(int d, int e) const {
    const int tap = F - 2 + e - 2 * d;
    return kEdge ? tap_at<F>(c_.taps_h, tap) : c_.taps_h[tap];
  }

  // Computes B_h of word q of row e of the step's two rows, then B_v: adds the result to the rows
  // of y that read this row.
  template <bool kEdge, bool kEnds>
  FASTBLUR_DEVICE void add_row(const Window& m, int q, int e) {
#pragma unroll
    for (int i = 0; i < kPerWord; ++i) {
#pragma unroll
      for (int o = 0; o < 2; ++o) {
        const auto weight = [&](int b) {
          return kEnds ? c_.weights.of[line_ + o][1 + b] : c_.taps_w[b];
        };
        float blurred = weight(0) * Word::unpack(m[2 * o], i);
#pragma unroll
        for (int b = 1; b < F; ++b)
          blurred = fmaf(weight(b), Word::unpack(m[2 * o + b], i), blurred);
        if constexpr (kEnds && kReachesBack)
          add_if(reaches_back(o), blurred, weight(-1),
                 Word::unpack(m[o == 0 ? kSpareColumn : 1], i));
#pragma unroll
        for (int d = 0; d < S::kSums; ++d) {
          float& sum = sum_[d][o][q * kPerWord + i];
          if (!has_tap<kEdge>(d, e)) continue;
          if (kEdge && F - 2 + e - 2 * d < 0) continue;
          sum = fmaf(tap_of<kEdge>(d, e), blurred, sum);
        }
      }
    }
  }

  using Pixels = Cell<kWords>[2];  // the strip's pixels in a row of y

  // Packs word q of the completed row of y, and moves the sums of the following rows up.
  FASTBLUR_DEVICE void take_row(int q, Pixels& out) {
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      out[o].at[q] = Word::pack(&sum_[0][o][q * kPerWord]);
#pragma unroll
      for (int i = q * kPerWord; i < (q + 1) * kPerWord; ++i)
#pragma unroll
        for (int d = 0; d < S::kSums; ++d)
          sum_[d][o][i] = d + 1 < S::kSums ? sum_[d + 1 < S::kSums ? d + 1 : 0][o][i] : 0;
    }
  }

  template <bool kEnds>
  FASTBLUR_DEVICE void store_y(T* y, const Pixels& out, bool wide) const {
#pragma unroll
    for (int o = 0; o < 2; ++o)
      if (!kEnds || 2 * pixel_.strip + o < c_.y_w)
        store_cell<T, kWords>(plus_bytes(y, int64_t(o) * c_.pixel), left_, wide, out[o]);
  }

  // Whether the values that `out` was computed from may include NaN.
  static FASTBLUR_DEVICE bool has_nan(const Pixels& out) {
    uint32_t all = Word::sum(out[0].at[0], out[1].at[0]);
#pragma unroll
    for (int q = 1; q < kWords; ++q) all = Word::sum(all, Word::sum(out[0].at[q], out[1].at[q]));
    return Word::has_nan(all);
  }

  template <bool kEnds>
  FASTBLUR_DEVICE void store_codes(int step, Codes code, const Codes& nobody, bool wide) const {
    // Padding of the max never wins, not even against -inf: in column 0, candidate 1 always takes
    // over.
    constexpr uint32_t kFirstWins =
        (Codes::bit(Bits::at(0, 0)) | Codes::bit(Bits::at(1, 0))) * Word::kEach;
#pragma unroll
    for (int q = 0; q < kWords; ++q) {
      if constexpr (kEnds && P > 0) code.low[q] |= pixel_.strip == 0 ? kFirstWins : 0;
      if constexpr (K == 3) {  // the last to take over won
        code.low[q] &= ~(code.low[q] >> 1 & 0x55555555u);
        code.high[q] &= ~(code.high[q] >> 1 & 0x55555555u);
      }
      code.low[q] |= nobody.low[q];
      code.high[q] |= nobody.high[q];
    }
    code.write(plus_bytes(codes_, (step + S::kRows.tile_shift()) * c_.tile_row), left_, wide);
  }

  // Computes the held rows that row r of m needs: the K - 1 rows of S_h x before its newest. With
  // `keeps`, for r = 0, their column winners are kept: those in the tile of row 0 go to `code`. The
  // tile row before it has no other winners and is stored here.
  FASTBLUR_DEVICE void hold(int r, Codes& code, bool keeps) {
    constexpr int kTop = int(S::kRows.first_row(kStepOfRow0));
    Codes before;
    uint32_t all = 0;
#pragma unroll
    for (int z = 0; z + 1 < K; ++z) {
      const int e = 1 - K + z - kTop;  // row of the tiles with the column winners of this row
      const Columns x = load_nearest(r - P + z);
#pragma unroll
      for (int q = 0; q < kWords; ++q) {
        Codes row;
        select_columns(x, q, held_[z][q], e & 1, row);
        if (!kCodes || z < P) continue;
        if (e < 0) before.low[q] |= row.low[q];
        else code.low[q] |= keeps ? row.low[q] : 0;
#pragma unroll
        for (int c = B; c < B + kStrip; ++c) all = Word::sum(all, held_[z][q][c]);
      }
    }
    if constexpr (kCodes && K > 1 && kStepOfRow0 + S::kRows.tile_shift() > 0) {
      if (keeps && chunk_of_steps(c_) == 0) {
        if (Word::has_nan(all)) choose_again(kTop - 2, before);
        store_codes<true>(kStepOfRow0 - 1, before, Codes(), c_.wide_x);
      }
    }
    next_ = r;
  }

  template <bool kEnds>
  FASTBLUR_DEVICE void fast_steps(int step, int end, int begin) {
    const int row = 2 * step + kFirst;
    if (next_ != row) {
      Codes unused;
      hold(row, unused, false);
    }
    const T* x = plus_bytes(x_, (row - P + K - 1) * c_.x_row);
    if (!kEnds) x = plus_bytes(x, int64_t(kStrip * pixel_.strip) * c_.pixel);
    T* y = plus_bytes(y_, step * c_.y_row);
#pragma unroll 1
    for (; step < end; ++step) {
      const int64_t ahead =
          kPrefetches && step + kPrefetchSteps < end ? 2 * kPrefetchSteps * c_.x_row : 0;
      Codes code, nobody;
      Pixels out;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const Columns now = load_columns<kEnds>(x, true, ahead);
        x = plus_bytes(x, c_.x_row);
#pragma unroll
        for (int q = 0; q < kWords; ++q) {
          Window newest, m;
          select_columns(now, q, newest, e, code);
          select_rows(newest, q, m, e, code, nobody);
          clear_columns<kEnds>(m);
          add_row<false, kEnds>(m, q, e);
          if (e == 1) take_row(q, out);
        }
      }
      if (step >= begin) {
        store_y<kEnds>(y, out, true);
        if constexpr (kCodes) {
          if constexpr (K > 1)
            if (has_nan(out)) choose_again(2 * step + kFirst, code);
          store_codes<kEnds>(step, code, nobody, true);
        }
      }
      y = plus_bytes(y, c_.y_row);
    }
    next_ = 2 * end + kFirst;
  }

  // Selects the winners of rows r and r + 1 of m again, by the exact rule.
  FASTBLUR_DEVICE void choose_again(int r, Codes& code) const {
    rarely();
#pragma unroll 1
    for (int i = 0; i < kChannels && i < left_; ++i) {
      code.set_channel(
          i, exact_tile<S>(c_, r, kStrip * pixel_.strip, [&](int row, int column) {
            return to_float(load(x_ + (int64_t(row) * c_.w + column) * c_.channels + i));
          }));
    }
  }

  FASTBLUR_DEVICE void edge_step(int step, int begin) {
    rarely();
    Codes code, nobody;
    uint32_t all = 0;
#pragma unroll 1
    for (int e = 0; e < 2; ++e) {
      const int p = 2 * step + kFirst + e;  // row of the padded m
      if (p < -B || p >= c_.m_h + c_.after_h) continue;
      const int r = int(border_source(p, c_.m_h, c_.border));
      if (r < 0) continue;
      if (r != next_) hold(r, code, p == 0);
      next_ = r + 1;
      const Columns x = load_nearest(r - P + K - 1);
      const bool keeps = p == r;
#pragma unroll
      for (int q = 0; q < kWords; ++q) {
        Codes row_code, row_nobody;  // for row 0 of the tile; shifted to row e below
        Window newest, m;
        select_columns(x, q, newest, 0, row_code);
        select_rows(newest, q, m, 0, row_code, row_nobody);
#pragma unroll
        for (int c = B; c < B + kStrip; ++c) all = Word::sum(all, m[c]);
        clear_columns<true>(m);
        add_row<true, true>(m, q, e);
        if (!kCodes || !keeps) continue;
        // Padding of the max never wins: in row 0, candidate 1 always takes over.
        if (P > 0 && r == 0) {
#pragma unroll
          for (int j = 0; j < kStrip; ++j) {
            const int at = Bits::kRowWinners + Bits::at(0, j);
            row_code.of(at, q) |= Codes::bit(at) * Word::kEach;
          }
        }
        code.low[q] |= row_code.low[q] << e * Bits::kRow;
        code.high[q] |= row_code.high[q] << e * Bits::kRow;
        const int per_row = Bits::kNobodyApart ? kTileColumns : Bits::kRow;
        nobody.low[q] |= row_nobody.low[q] << e * per_row;
        nobody.high[q] |= row_nobody.high[q] << e * per_row;
      }
    }
    Pixels out;
#pragma unroll
    for (int q = 0; q < kWords; ++q) take_row(q, out);
    if (step >= begin && step < c_.y_h)
      store_y<true>(plus_bytes(y_, step * c_.y_row), out, c_.wide_y);
    if constexpr (kCodes) {
      const bool nan = K > 1 && Word::has_nan(all);
      const int row = 2 * step + kFirst;
      if ((step >= begin || begin == 0) && step >= kStepOfRow0 &&
          step + S::kRows.tile_shift() < c_.tile_rows) {
        if (nan) choose_again(row, code);
        store_codes<true>(step, code, nobody, c_.wide_x);
      }
    }
  }

  const Call& c_;
  const Pixel pixel_;
  const int left_;  // channels from the thread's first to the last
  const bool interior_ = pixel_.interior(c_, -B - P, kColumns - 1 - B - P, 0, 1);
  const int line_ = pixel_.line(c_);
  const uint32_t floor_ = filled<T>(c_.floor);
  const T* x_;  // the thread's first channel in pixel 0 of the image
  T* y_;        // in the strip's first pixel of row 0; codes_ likewise
  Code* codes_ = nullptr;
  int next_ = INT_MIN;                 // the row of m that the held rows are for
  Window held_[kHeld][kWords];         // rows of S_h x, oldest first
  float sum_[S::kSums][2][kChannels];  // partial rows of y; the first is completed next
};

template <class T, class S, bool kCodes, int kChannels = ForwardNhwc<T, S, kCodes>::kChannels>
__global__ void __launch_bounds__(kPixelThreads, ForwardNhwc<T, S, kCodes>::kBlocks)
    forward_nhwc(const __grid_constant__ Call call) {
  const int64_t unit = part_of_units(call) * kPixelThreads + threadIdx.x;
  if (unit < call.units) ForwardNhwc<T, S, kCodes>(call, unit).run();
}

}  // namespace fastblur::cuda
