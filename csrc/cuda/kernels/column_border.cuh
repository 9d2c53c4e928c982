// Blur padding at the left and right end of a row in the contiguous format, where the columns of a
// row are spread over the lanes of a warp. `fill` completes the columns that the horizontal blur
// reads, and `fold` is its transpose.
//
// The edge lane holds the last columns of m, as its columns 0 to last_columns - 1. Beyond them the
// blur reads padding: column last_columns of the edge lane and, if the window is wide enough,
// column last_columns + 1. The sources of this padding are at most three columns to the left, so
// they are in the same lane or in its left neighbour. (Circular padding has its source in another
// warp. The generic kernels serve it.)
#pragma once

#include "cuda/kernels/call.h"
#include "cuda/kernels/values.cuh"

namespace fastblur::cuda {

// The value of the lane to the left, or to the right. An outer lane of the warp gets its own value.
// The shuffles are inline PTX, because the compiler moves __shfl_up_sync and __shfl_down_sync into
// divergent branches. The warp must then reconverge around each shuffle, which cuts the loop to
// pieces.
FASTBLUR_DEVICE float from_left(float value) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  return __shfl_up_sync(~0u, value, 1);
#else
  float left;
  asm volatile("shfl.sync.up.b32 %0, %1, 1, 0, -1;" : "=f"(left) : "f"(value));
  return left;
#endif
}
FASTBLUR_DEVICE float from_right(float value) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  return __shfl_down_sync(~0u, value, 1);
#else
  float right;
  asm volatile("shfl.sync.down.b32 %0, %1, 1, 31, -1;" : "=f"(right) : "f"(value));
  return right;
#endif
}

// kRegular: the border mode is reflect and rows of x are whole vectors, so the place of the last
// columns of m is known at compile time.
template <class S, int L, bool kRegular>
class ColumnBorder {
  static constexpr int F = S::kTaps;
  static constexpr int kRegularColumns = L - (S::kPool - 1 - 2 * S::kPad);

 public:
  static constexpr int kBefore = (F - 1) / 2;
  static constexpr bool kReadsRight = F >= 4;  // whether a window includes the next lane's column 0
  static constexpr int kHalo = 2;              // columns of a window before the lane's own
  static constexpr int kWindow = kHalo + L + 1;

  // Completes the window v. v[kHalo + c] is column c of the lane; columns 0 to L - 1 are given.
  template <class Lane>
  static FASTBLUR_DEVICE void fill(const Call& c, const Lane& lane, float (&v)[kWindow]) {
    const bool reflect = kRegular || c.border == Border::reflect;
    const bool replicate = !kRegular && c.border == Border::replicate;
#pragma unroll
    for (int q = 1; q <= kBefore; ++q) {
      const float left = from_left(v[kHalo + L - q]);
      const float padding = reflect ? v[kHalo + q] : replicate ? v[kHalo] : 0;
      v[kHalo - q] = lane.first ? padding : left;
    }
    if constexpr (kReadsRight) v[kHalo + L] = from_right(v[kHalo]);
    for_columns(c, [&](auto columns) {
      constexpr int C = decltype(columns)::value;
      float source[kHalo] = {v[kHalo + C - 1], v[kHalo + C - 1]};  // for replicate
      if (reflect) {
        source[0] = C == 1 && kBefore < 1 ? from_left(v[kHalo + L - 1]) : v[kHalo + C - 2];
        if constexpr (padding_tap<F>(C, 1) < F)
          source[1] = C == 1 && kBefore < 2 ? from_left(v[kHalo + L - 2])
                                            : v[kHalo + C - 3 < 0 ? 0 : kHalo + C - 3];
      } else if (!replicate) {
        source[0] = source[1] = 0;
      }
#pragma unroll
      for (int t = 0; t < 2; ++t)
        if (padding_tap<F>(C, t) < F && C + t <= L && lane.edge) v[kHalo + C + t] = source[t];
    });
  }

  // The transpose of fill. The lane's own dy gives gradient to padding, and fold adds it to the
  // sources of the padding. On entry, e[j] is the gradient of column j of m without this part.
  template <class Lane>
  static FASTBLUR_DEVICE void fold(const Call& c, const Lane& lane, const float (&dy)[L / 2],
                                   float (&e)[L]) {
    const bool reflect = kRegular || c.border == Border::reflect;
    const bool replicate = !kRegular && c.border == Border::replicate;
    float left[kHalo] = {};
#pragma unroll
    for (int q = 1; q <= kBefore; ++q) left[q - 1] = c.taps_w[kBefore - q] * dy[0];
    for_columns(c, [&](auto columns) {
      constexpr int C = decltype(columns)::value;
      constexpr int kLast = (C + 1) / 2 - 1;
      float right[kHalo] = {};
#pragma unroll
      for (int t = 0; t < 2; ++t)
        if (padding_tap<F>(C, t) < F) right[t] = c.taps_w[padding_tap<F>(C, t)] * dy[kLast];
#pragma unroll
      for (int k = C; k < L; ++k) e[k] = lane.edge ? 0 : e[k];
      if (replicate) {
        add_if(lane.edge, e[C - 1], right[0] + right[1]);
      } else if (reflect) {
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          if (padding_tap<F>(C, t) >= F) continue;
          const int to = C - 2 - t;
          if (to >= 0) {
            add_if(lane.edge, e[to < 0 ? 0 : to], right[t]);
          } else {
            const float beyond = from_right(right[t]);
            add_if(lane.group + 1 == c.last_group, e[to + L < L ? to + L : 0], beyond);
          }
        }
      }
    });
    if (!kRegular && lane.group > c.last_group) {
#pragma unroll
      for (int k = 0; k < L; ++k) e[k] = 0;
    }
#pragma unroll
    for (int q = 1; q <= kBefore; ++q) add_if(lane.first && reflect, e[q], left[q - 1]);
    if (replicate) add_if(lane.first, e[0], left[0] + left[1]);
  }

 private:
  // Calls f with last_columns as a compile-time constant. The branch is the same for all threads. L
  // and L - 1 are tried first: rows of whole vectors have one of them, except for K = 3 without
  // padding.
  template <class Fn>
  static FASTBLUR_DEVICE void for_columns(const Call& c, Fn f) {
    if constexpr (kRegular) return f(std::integral_constant<int, kRegularColumns>{});
    if (c.last_columns == L) f(std::integral_constant<int, L>{});
    else if (c.last_columns == L - 1) f(std::integral_constant<int, L - 1>{});
    else others(c, f, std::make_integer_sequence<int, L - 2>{});
  }
  template <class Fn, int... C>
  static FASTBLUR_DEVICE void others(const Call& c, Fn f, std::integer_sequence<int, C...>) {
    ((c.last_columns == C + 1 ? f(std::integral_constant<int, C + 1>{}) : void()), ...);
  }
};

}  // namespace fastblur::cuda
