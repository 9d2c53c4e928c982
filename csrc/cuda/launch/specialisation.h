// The sizes that the specialised kernels know at compile time. Sizes holds one of them with its
// derived constants, and two macros list them all. is_specialised says whether a call has one of
// these sizes, and with_sizes selects it.
#pragma once

#include "cuda/codes.h"
#include "cuda/launch/launch.h"

namespace fastblur::cuda {

// One size: pool K x K with padding P, F x F taps with Zhang's blur padding, stride 2.
template <int K, int P, int F, bool kRelu_>
struct Sizes {
  static constexpr int kPool = K, kPad = P, kTaps = F;
  static constexpr bool kRelu = kRelu_;
  static constexpr bool kLinear = K == 1 && !kRelu;
  static constexpr TileRows kRows{K, P, F};
  static constexpr int kBefore = kRows.before();  // blur padding before the first row or column
  static constexpr int kSums = (F + 1) / 2;       // rows of y that one row of m is part of, at most
  // Warm-up steps of a block, before its first row of y, or of dx, is complete.
  static constexpr int kWarmUp = (F - 1) / 2, kBackwardWarmUp = K > 1 ? 1 : 0;
  using Bits = TileBits<K, kRelu>;
  using Code = TileCode<K, kRelu>;

  // What the kernels assume, and where. A size that breaks an assumption must not compile: it would
  // run, but be wrong at borders or write beyond the codes.
  static_assert(K <= 3, "TileCode: a tile's winners have 16 (K - 1) bits, and a code at most 32");
  static_assert(
      F / 2 <= 2,
      "ColumnBorder, ColumnWeights, padding_tap: a window reads at most two columns of right "
      "padding, and their sources are at most three columns to the left");
  static_assert(kBefore <= 2,
                "ColumnBorder::kHalo: a lane keeps at most two columns before its own");
  static_assert(F - kBefore <= 3,
                "ColumnBorder::kWindow, spread_columns: a lane reads one column of the lane to its "
                "right, and one column of dy from each neighbour");
  static_assert(kRows.first_row(-kRows.tile_shift()) <= -kRows.ahead() &&
                    kRows.first_row(-kRows.tile_shift()) + 2 > -kRows.ahead(),
                "TileRows::tile_shift, and _tile_rows of fastblur/_backends/compiled.py: the first "
                "tile row holds the first winners");
  static_assert(kRows.first_row(-kRows.first_row(0)) <= 0 &&
                    kRows.first_row(-kRows.first_row(0)) + 2 > 0,
                "kStepOfRow0 of both forward kernels: that step must make row 0 of m");
};

// The specialised sizes: the pairs of pool and padding, and the numbers of taps. Each pair is
// combined with each number of taps.
#if !defined(FASTBLUR_CUDA_POOLS)
#define FASTBLUR_CUDA_POOLS(f) f(1, 0) f(2, 0) f(3, 0) f(3, 1)
#define FASTBLUR_CUDA_TAPS(f, K, P) f(K, P, 2) f(K, P, 3) f(K, P, 4) f(K, P, 5)
#endif

inline bool is_specialised(const Params& p, Type type) {
  const auto fits = [](const Axis& a) {
    const int64_t before = (a.n_taps - 1) / 2, after = a.n_taps / 2;
    return a.stride == 2 && a.before == before && a.after <= after && a.size < (1 << 30);
  };
  // The border modes that the kernels handle. column_border.cuh says why circular is not among
  // them.
  const bool border =
      p.border == Border::reflect || p.border == Border::replicate || p.border == Border::zeros;
  if (p.channels >= 1 << 28) return false;  // the bytes of a pixel are counted in 32 bits
  if (type == Type::f64 || !border || !fits(p.h) || !fits(p.w)) return false;
  if (p.h.pool != p.w.pool || p.h.pad != p.w.pad || p.h.n_taps != p.w.n_taps) return false;
  const auto same = [&](int k, int pad, int f) {
    return p.h.pool == k && p.h.pad == pad && p.h.n_taps == f;
  };
#define FASTBLUR_CUDA_SAME(K, P, F) || same(K, P, F)
#define FASTBLUR_CUDA_SAME_POOL(K, P) FASTBLUR_CUDA_TAPS(FASTBLUR_CUDA_SAME, K, P)
  return false FASTBLUR_CUDA_POOLS(FASTBLUR_CUDA_SAME_POOL);
#undef FASTBLUR_CUDA_SAME
#undef FASTBLUR_CUDA_SAME_POOL
}

// Calls f with the Sizes of p. is_specialised must be true for p.
template <class Fn>
cudaError_t with_sizes(const Params& p, Fn f) {
#define FASTBLUR_CUDA_CASE(K, P, F)                     \
  if (p.h.pool == K && p.h.pad == P && p.h.n_taps == F) \
    return p.relu ? f(Sizes<K, P, F, true>{}) : f(Sizes<K, P, F, false>{});
#define FASTBLUR_CUDA_CASES(K, P) FASTBLUR_CUDA_TAPS(FASTBLUR_CUDA_CASE, K, P)
  FASTBLUR_CUDA_POOLS(FASTBLUR_CUDA_CASES)
#undef FASTBLUR_CUDA_CASE
#undef FASTBLUR_CUDA_CASES
  return cudaErrorInvalidValue;
}

}  // namespace fastblur::cuda
