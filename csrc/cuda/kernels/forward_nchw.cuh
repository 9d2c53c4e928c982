// Forward, contiguous:  y = B_h B_v S_v S_h x.
//
// A lane (lane.cuh) sweeps down the rows with its state in registers: the held rows, which are the
// last K - 1 rows of S_h x, and the sums, which are the partial rows of y. A step adds two rows of
// m and completes one row of y. A chunk begins with warm-up steps, which fill the sums and store
// nothing.
//
// There are two kinds of steps. fast_steps handles the interior rows in a loop. edge_step handles
// the rows at the borders and decides everything at run time. It goes through the rows of the
// padded m and reads each from its source, which gives the blur padding above and below.
#pragma once

#include "cuda/kernels/column_border.cuh"
#include "cuda/kernels/exact_tile.cuh"
#include "cuda/kernels/lane.cuh"
#include "cuda/launch/specialisation.h"

namespace fastblur::cuda {

template <class T, class S, bool kCodes>
class ForwardNchw {
  static constexpr int L = kColumns<T>, K = S::kPool, P = S::kPad, F = S::kTaps;
  static constexpr int kTiles = L / kTileColumns;
  static constexpr int kRight = K - 1 - P;  // columns of x needed from the lane to the right
  static constexpr int kHeld = K > 1 ? K - 1 : 1;
  static constexpr int kFirst = int(S::kRows.first_row(0));
  static constexpr int kStepOfRow0 = -kFirst;  // the step that adds row 0 of m
  // float32 without codes does not prefetch: it waits for nothing but memory, and was slower with
  // prefetches.
  static constexpr bool kPrefetches = kCodes || sizeof(T) == 2;
  using Bits = typename S::Bits;
  using Code = typename S::Code;
  using Row = Vector<T, L>;

 public:
  FASTBLUR_DEVICE explicit ForwardNchw(const Call& c)
      : c_(c),
        lane_(c),
        x_(static_cast<const T*>(c.in) + lane_.plane * c.h * c.w + lane_.group * L),
        y_(static_cast<T*>(c.out) + lane_.plane * c.y_h * c.y_w + lane_.group * (L / 2)) {
    if constexpr (kCodes)
      codes_ = reinterpret_cast<Code*>(static_cast<unsigned char*>(c.codes) +
                                       lane_.image * c.code_bytes_per_image) +
               lane_.channel * c.tile_rows * c.tile_columns + lane_.group * kTiles;
#pragma unroll
    for (int d = 0; d < S::kSums; ++d)
#pragma unroll
      for (int j = 0; j < L; ++j) sum_[d][j] = 0;
  }

  FASTBLUR_DEVICE void run() {
    const int begin = chunk_of_steps(c_) * c_.chunk, first = begin - S::kWarmUp;
    const int end = min(begin + c_.chunk, c_.steps);
    // The fast steps come after the step with row 0 of m. All rows of x that their two rows of m
    // need exist.
    const int fast_begin = max(first, kStepOfRow0 + 1);
    const int fast_end = min(min(end, c_.y_h), ((c_.m_h - P - 2 - kFirst) >> 1) + 1);
    int step = first;
    while (step < end) {
      if (step == fast_begin && step < fast_end) {
        if (c_.regular) fast_steps<true>(step, fast_end, begin);
        else fast_steps<false>(step, fast_end, begin);
        step = fast_end;
      } else {
        edge_step(step, begin);
        ++step;
      }
    }
  }

 private:
  struct LaneCodes {
    unsigned at[kTiles];  // raw bits: bit z - 1 of a winner says that candidate z took over
    unsigned nobody[kTiles];
    FASTBLUR_DEVICE LaneCodes() {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) at[t] = nobody[t] = 0;
    }
  };

  template <bool kRegular>
  FASTBLUR_DEVICE Row load_x(const T* row) const {
    return load_columns<L>(row, lane_.group * L, c_.w, kRegular ? L : c_.each_x,
                           from_float<T>(-INFINITY));
  }
  // Row `row` of x, or -inf if it is padding of the max.
  FASTBLUR_DEVICE Row load_x_or_padding(int row) const {
    if (row >= 0 && row < c_.h) return load_x<false>(x_ + int64_t(row) * c_.w);
    Row outside;
#pragma unroll
    for (int j = 0; j < L; ++j) outside.at[j] = from_float<T>(-INFINITY);
    return outside;
  }

  // Compares the next candidate `later` with `best`. Sets `bit` of `code` if it takes over.
  template <bool kFast>
  FASTBLUR_DEVICE static void choose(float& best, float later, unsigned& code, unsigned bit) {
    if constexpr (kFast && kCodes) {
      best = take_larger(best, later, code, bit);
    } else if constexpr (kFast) {
      best = larger_of(best, later);
    } else {
      const bool taken = takes_over(later, best);
      best = taken ? later : best;
      code |= taken ? bit : 0;
    }
  }

  // Computes S_h of a row of x. The column winners go to row e of the tiles.
  template <bool kFast>
  FASTBLUR_DEVICE void select_columns(const Row& row, float (&best)[L], int e,
                                      LaneCodes& code) const {
    float x[P + L + kRight];
#pragma unroll
    for (int j = 0; j < L; ++j) x[P + j] = to_float(row.at[j]);
#pragma unroll
    for (int j = 0; j < P; ++j) {
      const float left = from_left(x[L + j]);
      x[j] = lane_.first ? -INFINITY : left;
    }
#pragma unroll
    for (int j = 0; j < kRight; ++j) {
      const float right = from_right(x[P + j]);
      // For P = 0, no column of m reads beyond the row.
      x[P + L + j] = P > 0 && lane_.last ? -INFINITY : right;
    }
#pragma unroll
    for (int j = 0; j < L; ++j) {
      best[j] = x[j];
#pragma unroll
      for (int z = 1; z < K; ++z)
        choose<kFast>(best[j], x[j + z], code.at[j / kTileColumns],
                      1u << (Bits::at(0, j % kTileColumns) + z - 1) << e * Bits::kRow);
    }
    // Padding of the max never wins, not even against -inf: in column 0, candidate 1 always takes
    // over.
    if constexpr (kCodes && P > 0) code.at[0] |= lane_.first ? 1u << e * Bits::kRow : 0;
  }

  // Computes S_v of the held rows and the newest row, then ReLU. The row winners go to row e of the
  // tiles. The newest row then becomes a held row.
  template <bool kFast>
  FASTBLUR_DEVICE void select_rows(const float (&newest)[L], float (&m)[L], int e,
                                   LaneCodes& code) {
#pragma unroll
    for (int j = 0; j < L; ++j) {
      const int tile = j / kTileColumns, column = j % kTileColumns;
      m[j] = K > 1 ? held_[0][j] : newest[j];
#pragma unroll
      for (int z = 1; z < K; ++z) {
        choose<kFast>(m[j], z == K - 1 ? newest[j] : held_[z < kHeld ? z : 0][j], code.at[tile],
                      1u << (Bits::kRowWinners + Bits::at(0, column) + z - 1) << e * Bits::kRow);
      }
      if constexpr (S::kRelu) {
        const bool nobody = m[j] <= 0;
        m[j] = nobody ? 0 : m[j];
        const unsigned bits =
            Bits::kNobodyApart ? 1u << (Bits::kNobody + column) << e * kTileColumns
                               : 3u << (Bits::kRowWinners + Bits::at(0, column)) << e * Bits::kRow;
        code.nobody[tile] |= nobody ? bits : 0;
      } else if constexpr (!kCodes) {
        m[j] = larger_of(m[j], c_.floor);
      }
    }
#pragma unroll
    for (int z = 0; z + 1 < K; ++z)
#pragma unroll
      for (int j = 0; j < L; ++j)
        held_[z][j] = z + 2 < K ? held_[z + 1 < kHeld ? z + 1 : 0][j] : newest[j];
  }

  // Computes the held rows that row r of m needs: the K - 1 rows of S_h x before its newest. For
  // r = 0, their column winners are kept: those in the tile row of row 0 go to ahead_, and the tile
  // row before it is stored here.
  FASTBLUR_DEVICE void hold(int r) {
    LaneCodes ahead, before;  // for the tile row of the step of row 0, and for the one before
#pragma unroll
    for (int z = 0; z + 1 < K; ++z) {
      constexpr int kTop = int(S::kRows.first_row(kStepOfRow0));
      const int e = 1 - K + z - kTop;  // row of the tiles with the column winners of this row
      LaneCodes code;
      select_columns<false>(load_x_or_padding(r - P + z), held_[z], e & 1, code);
      if (z >= P) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) (e < 0 ? before : ahead).at[t] |= code.at[t];
      }
    }
    if constexpr (kCodes && K > 1) {
      if (r == 0) {
        ahead_ = ahead;
        if (chunk_of_steps(c_) == 0 && kStepOfRow0 + S::kRows.tile_shift() > 0)
          store_codes(kStepOfRow0 - 1, before, lane_.owns);
      }
    }
    next_ = r;
  }

  // B_v: adds row 2 * step + kFirst + e of the padded m to the rows of y that read it.
  FASTBLUR_DEVICE void add_row(const float (&m)[L], int e) {
#pragma unroll
    for (int d = 0; d < S::kSums; ++d) {
      const int tap = F - 2 + e - 2 * d;
      if (tap >= 0 && tap < F) {
#pragma unroll
        for (int j = 0; j < L; ++j) sum_[d][j] = fmaf(c_.taps_h[tap], m[j], sum_[d][j]);
      }
    }
  }

  // B_h: blurs the completed row of y along its columns and stores it. Returns whether the values
  // that it was computed from may include NaN.
  template <bool kRegular>
  FASTBLUR_DEVICE bool blur_columns(T* y, bool stores) const {
    using Border = ColumnBorder<S, L, kRegular>;
    float v[Border::kWindow], out[L / 2], all = 0;
#pragma unroll
    for (int j = 0; j < L; ++j) v[Border::kHalo + j] = sum_[0][j];
    Border::fill(c_, lane_, v);
#pragma unroll
    for (int j = 0; j < L / 2; ++j) {
      out[j] = c_.taps_w[0] * v[Border::kHalo - S::kBefore + 2 * j];
#pragma unroll
      for (int b = 1; b < F; ++b)
        out[j] = fmaf(c_.taps_w[b], v[Border::kHalo - S::kBefore + 2 * j + b], out[j]);
      all += out[j];
    }
    const int begin = lane_.group * (L / 2);
    if (stores && begin < c_.y_w)
      store_columns(y, begin, c_.y_w, kRegular ? L / 2 : c_.each_y, out);
    return all != all;
  }

  FASTBLUR_DEVICE void next_sums() {
#pragma unroll
    for (int d = 0; d < S::kSums; ++d)
#pragma unroll
      for (int j = 0; j < L; ++j)
        sum_[d][j] = d + 1 < S::kSums ? sum_[d + 1 < S::kSums ? d + 1 : 0][j] : 0;
  }

  FASTBLUR_DEVICE void store_codes(int step, const LaneCodes& code, bool stores) const {
    Code* const row = codes_ + int64_t(step + S::kRows.tile_shift()) * c_.tile_columns;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      unsigned bits = code.at[t];
      if constexpr (K == 3) bits &= ~(bits >> 1 & 0x55555555u);  // the last to take over won
      bits |= code.nobody[t];
      if (stores && lane_.group * kTiles + t < c_.tile_columns) store(row + t, Code(bits));
    }
  }

  template <bool kRegular>
  FASTBLUR_DEVICE void fast_steps(int step, int end, int begin) {
    const int row = 2 * step + kFirst;
    if (next_ != row) hold(row);
    const T* x = x_ + int64_t(row - P + K - 1) * c_.w;
    T* y = y_ + int64_t(step) * c_.y_w;
    Row coming[2] = {load_x<kRegular>(x), load_x<kRegular>(x + c_.w)};
#pragma unroll 1
    for (; step < end; ++step) {
      if constexpr (!kRegular) rarely();
      const T* const next = step + 1 < end ? x + 2 * c_.w : x;
      LaneCodes code;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float newest[L], m[L];
        select_columns<true>(coming[e], newest, e, code);
        coming[e] = load_x<kRegular>(next + e * c_.w);
        if constexpr (kRegular && kPrefetches)
          if (step + 1 + kPrefetchSteps < end) prefetch(next + (2 * kPrefetchSteps + e) * c_.w);
        select_rows<true>(newest, m, e, code);
        add_row(m, e);
      }
      const bool stores = lane_.owns && step >= begin;
      const bool nan = blur_columns<kRegular>(y, stores);
      if constexpr (kCodes) {
        if constexpr (K > 1)
          if (__any_sync(~0u, nan)) choose_again(2 * step + kFirst, code);
        store_codes(step, code, stores);
      }
      x = next;
      y += c_.y_w;
      next_sums();
    }
    next_ = 2 * end + kFirst;
  }

  // Selects the winners of rows r and r + 1 of m again, by the exact rule.
  FASTBLUR_DEVICE void choose_again(int r, LaneCodes& code) const {
    rarely();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int first = lane_.group * L;
      code.at[t] = exact_tile<S>(c_, r, first + t * kTileColumns, [&](int row, int column) {
        return to_float(load(x_ + int64_t(row) * c_.w + column - first));
      });
    }
  }

  FASTBLUR_DEVICE void edge_step(int step, int begin) {
    rarely();
    LaneCodes code;
#pragma unroll 1
    for (int e = 0; e < 2; ++e) {
      const int q = 2 * step + kFirst + e;  // row of the padded m
      if (q < -S::kBefore || q >= c_.m_h + c_.after_h) continue;
      const int r = int(border_source(q, c_.m_h, c_.border));
      if (r < 0) continue;
      if (r != next_) hold(r);
      LaneCodes row_code;
      float newest[L], m[L];
      select_columns<false>(load_x_or_padding(r - P + K - 1), newest, e, row_code);
      select_rows<false>(newest, m, e, row_code);
      next_ = r + 1;
      if (q == r) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          if (r == 0) {
            if constexpr (K > 1) code.at[t] |= ahead_.at[t];
            // Padding of the max never wins: in row 0, candidate 1 always takes over.
            if constexpr (P > 0)
#pragma unroll
              for (int j = 0; j < kTileColumns; ++j)
                code.at[t] |= 1u << (Bits::kRowWinners + Bits::at(0, j)) << e * Bits::kRow;
          }
          code.at[t] |= row_code.at[t];
          code.nobody[t] |= row_code.nobody[t];
        }
      }
      add_row(m, e);
    }
    if (step >= begin && step < c_.y_h)
      blur_columns<false>(y_ + int64_t(step) * c_.y_w, lane_.owns);
    next_sums();
    if constexpr (kCodes) {
      const int row = step + S::kRows.tile_shift();
      if ((step >= begin || begin == 0) && step >= kStepOfRow0 && row < c_.tile_rows)
        store_codes(step, code, lane_.owns);
    }
  }

  const Call& c_;
  const Lane lane_;
  const T* const x_;  // the lane's first column of row 0; y_ and codes_ likewise
  T* const y_;
  Code* codes_ = nullptr;
  int next_ = INT_MIN;      // the row of m that the held rows are for
  float held_[kHeld][L];    // rows of S_h x, oldest first
  float sum_[S::kSums][L];  // partial rows of y; the first is completed next
  LaneCodes ahead_;         // column winners that hold(0) found, for the tile of row 0
};

template <class T, class S, bool kCodes>
__global__ void __launch_bounds__(kThreads, kBlocks<T, S, kCodes>)
    forward_nchw(const __grid_constant__ Call call) {
  ForwardNchw<T, S, kCodes>(call).run();
}

}  // namespace fastblur::cuda
