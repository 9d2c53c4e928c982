// Backward, contiguous:  dx = S_h' S_v' B_v' B_h' dy, where ' is the transpose.
//
// This is the sweep of forward_nchw.cuh in reverse. A step computes two rows of dm from the
// surrounding rows of B_h' dy, which are kept in registers, and routes each row to the rows of x
// with its winners. A row of x is complete when the last row of m that it can win has been routed.
// It is then gathered along its columns (S_h') and stored. One lane writes each element of dx,
// once, so there are no atomics.
#pragma once

#include "cuda/kernels/column_border.cuh"
#include "cuda/kernels/lane.cuh"
#include "cuda/kernels/routing.cuh"
#include "cuda/launch/specialisation.h"

namespace fastblur::cuda {

template <class T, class S>
class BackwardNchw {
  static constexpr int L = kColumns<T>, K = S::kPool, P = S::kPad, F = S::kTaps;
  static constexpr int kTiles = L / kTileColumns;
  static constexpr int kHeld = K > 1 ? K - 1 : 1;
  static constexpr int D = S::kSums;  // rows of dy that a step reads
  static constexpr int kFirst = int(S::kRows.first_row(0));
  static constexpr bool kCodes = !S::kLinear;
  using Bits = typename S::Bits;
  using Code = typename S::Code;
  using Row = Vector<T, L / 2>;

 public:
  // Blocks that fit on a multiprocessor, for __launch_bounds__.
  static constexpr int kBlocks =
      sizeof(T) == 2 && K == 3 && F < 5 ? 5 : fastblur::cuda::kBlocks<T, S>;

  FASTBLUR_DEVICE explicit BackwardNchw(const Call& c)
      : c_(c),
        lane_(c),
        dy_(static_cast<const T*>(c.in) + lane_.plane * c.y_h * c.y_w + lane_.group * (L / 2)),
        dx_(static_cast<T*>(c.out) + lane_.plane * c.h * c.w + lane_.group * L) {
    if constexpr (kCodes)
      codes_ = reinterpret_cast<const Code*>(static_cast<const unsigned char*>(c.codes) +
                                             lane_.image * c.code_bytes_per_image) +
               lane_.channel * c.tile_rows * c.tile_columns + lane_.group * kTiles;
#pragma unroll
    for (int z = 0; z < kHeld; ++z)
#pragma unroll
      for (int j = 0; j < L; ++j) pending_[z][j] = 0;
  }

  // The step that completes row 0 of x, and the number of steps from it to the last row.
  static constexpr int kFirstStep = (P - kFirst) >> 1;
  static int steps(int h) { return ((h - 1 + P - kFirst) >> 1) - kFirstStep + 1; }

  FASTBLUR_DEVICE void run() {
    const int begin = kFirstStep + chunk_of_steps(c_) * c_.chunk;
    const int first = begin - S::kBackwardWarmUp;
    const int end = min(begin + c_.chunk, kFirstStep + c_.steps);
    // In a fast step, neither row of m is a source of padding, and all rows of dy exist.
    const int fast_begin = max(first, (S::kBefore + 2 - kFirst) >> 1);
    const int fast_end =
        min(min(end, c_.y_h - D + 1), ((c_.m_h - 3 - c_.after_h - kFirst) >> 1) + 1);
    before_ = load_codes(first - 1);
#pragma unroll
    for (int d = 0; d + 1 < D; ++d) spread_row(first + d, e_[d]);
    const bool fast = fast_begin < fast_end;
    march<false, true>(first, fast ? fast_begin : end, begin);
    if (!fast) return;
    if (c_.regular) march<true, false>(fast_begin, fast_end, begin);
    else march<false, false>(fast_begin, fast_end, begin);
    march<false, true>(fast_end, end, begin);
  }

 private:
  struct LaneCodes {
    unsigned at[kTiles];
  };

  // Loads the codes of the lane's tiles for a step. A tile that does not exist gets the codes of
  // the nearest one, which is harmless: its elements have no gradient.
  FASTBLUR_DEVICE LaneCodes load_codes(int step) const {
    LaneCodes code = {};
    if constexpr (kCodes) {
      const int row = min(max(step + S::kRows.tile_shift(), 0), c_.tile_rows - 1);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const int beyond = max(lane_.group * kTiles + t - (c_.tile_columns - 1), 0);
        code.at[t] = load(codes_ + int64_t(row) * c_.tile_columns + t - beyond);
      }
    }
    return code;
  }

  template <bool kRegular>
  FASTBLUR_DEVICE Row load_dy(const T* row) const {
    const int begin = lane_.group * (L / 2);
    if (kRegular || begin < c_.y_w)
      return load_columns<L / 2>(row, begin, c_.y_w, kRegular ? L / 2 : c_.each_y,
                                 from_float<T>(0));
    Row none;
#pragma unroll
    for (int j = 0; j < L / 2; ++j) none.at[j] = from_float<T>(0);
    return none;
  }

  // Computes B_h' of a row of dy.
  template <bool kRegular>
  FASTBLUR_DEVICE void spread_columns(const Row& row, float (&e)[L]) const {
    constexpr int kHalf = L / 2;
    float own[kHalf], all[kHalf + 2];  // all: with one column of each neighbour
#pragma unroll
    for (int j = 0; j < kHalf; ++j) own[j] = all[j + 1] = to_float(row.at[j]);
    const float left = F >= 4 ? from_left(own[kHalf - 1]) : 0;
    const float right = F >= 3 ? from_right(own[0]) : 0;
    all[0] = lane_.first ? 0 : left;
    all[kHalf + 1] = lane_.last ? 0 : right;
#pragma unroll
    for (int j = 0; j < L; ++j) {
      bool any = false;
#pragma unroll
      for (int i = -1; i <= kHalf; ++i) {
        const int tap = j + S::kBefore - 2 * i;
        if (tap < 0 || tap >= F) continue;
        e[j] = any ? fmaf(c_.taps_w[tap], all[i + 1], e[j]) : c_.taps_w[tap] * all[i + 1];
        any = true;
      }
    }
    ColumnBorder<S, L, kRegular>::fold(c_, lane_, own, e);
  }

  // Computes B_h' of row i of dy; zeros if there is no such row.
  FASTBLUR_DEVICE void spread_row(int i, float (&e)[L]) const {
    Row row;
#pragma unroll
    for (int j = 0; j < L / 2; ++j) row.at[j] = from_float<T>(0);
    if (i >= 0 && i < c_.y_h) row = load_dy<false>(dy_ + int64_t(i) * c_.y_w);
    spread_columns<false>(row, e);
  }

  // S_v': adds a row of dm to the K rows of x that it may have come from. Row e of the tiles has
  // the row winners. `whole` is the complete sum of the oldest of these rows; pending_ keeps the
  // others.
  FASTBLUR_DEVICE void route_rows(const float (&dm)[L], const LaneCodes& code, int e,
                                  float (&whole)[L]) {
#pragma unroll
    for (int j = 0; j < L; ++j) {
      const unsigned bits = code.at[j / kTileColumns];
      const int at = Bits::kRowWinners + Bits::at(e, j % kTileColumns);
      float d = dm[j];
      if constexpr (S::kRelu) {
        const bool nobody = Bits::kNobodyApart
                                ? bits >> (Bits::kNobody + e * kTileColumns + j % kTileColumns) & 1
                                : (bits >> at & 3) == 3;
        d = nobody ? 0 : d;
      }
      if constexpr (K == 1) {
        whole[j] = d;
      } else {
        whole[j] = pending_[0][j];
        if (won<K>(bits, at, 0)) whole[j] += d;
#pragma unroll
        for (int z = 1; z + 1 < K; ++z) {
          pending_[z - 1][j] = pending_[z < kHeld ? z : 0][j];
          if (won<K>(bits, at, z)) pending_[z - 1][j] += d;
        }
        pending_[kHeld - 1][j] = won<K>(bits, at, K - 1) ? d : 0;
      }
    }
  }

  // S_h': routes a complete row of gradients of column maxima to the columns that won. Row e of the
  // tiles has the column winners.
  FASTBLUR_DEVICE void route_columns(const float (&g)[L], const LaneCodes& code, int e,
                                     float (&out)[L]) const {
    constexpr int kRight = K - 1 - P;
    float all[P + L + kRight];
#pragma unroll
    for (int j = 0; j < P + L + kRight; ++j) {
      bool any = false;
#pragma unroll
      for (int z = K - 1; z >= 0; --z) {
        const int from = j - z;
        if (from < 0 || from >= L) continue;
        const bool taken =
            won<K>(code.at[from / kTileColumns], Bits::at(e, from % kTileColumns), z);
        if (!any) all[j] = taken ? g[from] : 0;
        else if (taken) all[j] += g[from];
        any = true;
      }
    }
#pragma unroll
    for (int j = 0; j < L; ++j) out[j] = all[P + j];
#pragma unroll
    for (int j = 0; j < kRight; ++j) {
      const float left = from_left(all[P + L + j]);
      add_if(!lane_.first, out[j], left);
    }
#pragma unroll
    for (int j = 0; j < P; ++j) {
      const float right = from_right(all[j]);
      add_if(!lane_.last, out[L - P + j], right);
    }
  }

  // Routes row r = 2 * step + kFirst + e of dm, and stores row r - P of dx, which this completes.
  template <bool kRegular>
  FASTBLUR_DEVICE void route(const float (&dm)[L], const LaneCodes& code, int e, T* dx,
                             bool stores) {
    float whole[L];
    route_rows(dm, code, e, whole);
    if constexpr (K > 1) {
      // The tiles have the column winners of row r - P of x in row r - (K - 1) of m (see codes.h).
      const bool previous = K == 3 || e == 0;
      LaneCodes winners;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) winners.at[t] = previous ? before_.at[t] : code.at[t];
      float out[L];
      route_columns(whole, winners, K == 3 ? e : 1 - e, out);
      if (stores) store_columns(dx, lane_.group * L, c_.w, kRegular ? L : c_.each_x, out);
    } else if (stores) {
      store_columns(dx, lane_.group * L, c_.w, kRegular ? L : c_.each_x, whole);
    }
  }

  // Computes B_v': row r of a step's two rows of dm, from the rows of B_h' dy that the step reads.
  FASTBLUR_DEVICE void spread_rows(int r, float (&dm)[L]) const {
#pragma unroll
    for (int j = 0; j < L; ++j) {
      dm[j] = c_.taps_h[F - 2 + r] * e_[0][j];
#pragma unroll
      for (int d = 1; d < D; ++d) {
        const int tap = F - 2 + r - 2 * d;
        if (tap >= 0) dm[j] = fmaf(c_.taps_h[tap], e_[d][j], dm[j]);
      }
    }
  }
  // Adds to a row of dm what its copies in the padding receive.
  FASTBLUR_DEVICE void add_padding(const RowPlace<S>& place, float (&dm)[L]) const {
    const auto add = [&](const float (&e)[L], float tap) {
#pragma unroll
      for (int j = 0; j < L; ++j) dm[j] = fmaf(tap, e[j], dm[j]);
    };
    place.for_each_copy([&](int d, float tap) { add(e_[d], tap); });
    if (place.reached) {
      float e[L];
      spread_row(c_.y_h - 1, e);
      add(e, c_.taps_h[F - 1]);
    }
#pragma unroll
    for (int j = 0; j < L; ++j) dm[j] = place.exists ? dm[j] : 0;
  }

  // Prefetches what a step reads. `dy` is the row that the step before the next one loads.
  FASTBLUR_DEVICE void prefetch_step(int step, const T* dy) const {
    prefetch(dy + int64_t(kPrefetchSteps) * c_.y_w);
    if constexpr (kCodes)
      prefetch(codes_ + int64_t(step + S::kRows.tile_shift()) * c_.tile_columns);
  }

  // Does the steps from `step` to `end`. With kBorder, they may be any steps.
  template <bool kRegular, bool kBorder>
  FASTBLUR_DEVICE void march(int step, int end, int begin) {
    const T* dy = dy_ + int64_t(step + D - 1) * c_.y_w;
    T* dx = dx_ + int64_t(2 * step + kFirst - P) * c_.w;
    Row coming;
    LaneCodes coming_code;
    if constexpr (!kBorder) coming = load_dy<kRegular>(dy), coming_code = load_codes(step);
#pragma unroll 1
    for (; step < end; ++step) {
      if constexpr (!kRegular) rarely();
      LaneCodes code;
      if constexpr (kBorder) {
        spread_row(step + D - 1, e_[D - 1]);
        code = load_codes(step);
      } else {
        code = coming_code;
        spread_columns<kRegular>(coming, e_[D - 1]);
        dy += step + 1 < end ? c_.y_w : 0;
        coming = load_dy<kRegular>(dy);
        coming_code = load_codes(step + 1 < end ? step + 1 : step);
        if (kRegular && step + 1 + kPrefetchSteps < end)
          prefetch_step(step + 1 + kPrefetchSteps, dy);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float dm[L];
        const RowPlace<S> place(c_, step, r);
        spread_rows(r, dm);
        if constexpr (kBorder) add_padding(place, dm);
        const bool exists = !kBorder || unsigned(place.row - P) < unsigned(c_.h);
        route<kRegular>(dm, code, r, dx, lane_.owns && step >= begin && exists);
        dx += c_.w;
      }
      before_ = code;
#pragma unroll
      for (int d = 0; d + 1 < D; ++d)
#pragma unroll
        for (int j = 0; j < L; ++j) e_[d][j] = e_[d + 1][j];
    }
  }

  const Call& c_;
  const Lane lane_;
  const T* const dy_;
  T* const dx_;
  const Code* codes_ = nullptr;
  LaneCodes before_;         // codes of the previous step
  float e_[D][L];            // B_h' of the rows of dy from row `step` on
  float pending_[kHeld][L];  // gradients so far of the partial rows of x, oldest first
};

template <class T, class S>
__global__ void __launch_bounds__(kThreads, BackwardNchw<T, S>::kBlocks)
    backward_nchw(const __grid_constant__ Call call) {
  BackwardNchw<T, S>(call).run();
}

}  // namespace fastblur::cuda
