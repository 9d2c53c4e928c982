// Launches the specialised kernels for the channels_last format. in_pixels adds to a Call what
// depends on this format and on the kernel; the launch functions then choose the sizes and call
// `sweep`.
#pragma once

#include <algorithm>

#include "cuda/kernels/backward_nhwc.cuh"
#include "cuda/kernels/forward_nhwc.cuh"
#include "cuda/launch/sweep.cuh"

namespace fastblur::cuda {

// The weights of B_h, from the definition of the border.
inline ColumnWeights column_weights(const Params& p) {
  ColumnWeights weights = {};
  const Axis& w = p.w;
  const int outputs = int(std::min<int64_t>(w.out(), ColumnWeights::kOutputs));
  weights.left_out = int(w.out()) - outputs;
  weights.reaching = ColumnWeights::kNone;
  for (int line = 0; line < outputs; ++line) {
    const int output = line < outputs / 2 ? line : line + weights.left_out;
    const int64_t begin = 2 * output - w.before;  // the column of b = 0
    double sums[1 + kMaxSpecialTaps] = {};
    for (int b = 0; b < w.n_taps; ++b) {
      const int64_t column = border_source(begin + b, w.pooled(), p.border);
      if (column >= 0) sums[1 + column - begin] += p.taps_w[b];
      if (column >= 0 && column < begin) weights.reaching = output;
    }
    for (int b = 0; b <= w.n_taps; ++b)
      weights.of[ColumnWeights::kBefore + line][b] = float(sums[b]);
  }
  return weights;
}

// Completes a Call for threads that own `channels` channels each, in rows of `strips` strips. A
// code has `code_bytes` bytes.
template <class T>
Call in_pixels(const Params& p, Call c, const void* x, const void* y, int strips, int channels,
               int code_bytes) {
  c.groups = strips;
  c.channel_groups = int(ceil_div(p.channels, channels));
  c.units = p.batch * strips * c.channel_groups;
  c.pixel = int(p.channels * int64_t(sizeof(T)));
  c.tile = int(p.channels * code_bytes);
  c.x_row = int64_t(c.w) * c.pixel;
  c.y_row = int64_t(c.y_w) * c.pixel;
  c.tile_row = int64_t(c.tile_columns) * c.tile;
  const int64_t bytes = channels * int64_t(sizeof(T));
  const bool whole = p.channels % channels == 0;
  c.wide_x = whole && is_aligned(x, bytes);
  c.wide_y = whole && is_aligned(y, bytes);
  c.weights = column_weights(p);
  return c;
}

template <class T>
cudaError_t forward_nhwc_as(const Params& p, Call c, const Queue& queue) {
  return with_sizes(p, [&](auto sizes) {
    using S = decltype(sizes);
    using Plain = Sizes<S::kPool, S::kPad, S::kTaps, false>;
    c.steps = forward_steps(c, S::kRows);
    const auto launch_as = [&](auto kernel_of, auto kernel) {
      using Kernel = std::remove_pointer_t<decltype(kernel_of)>;
      const Call call = in_pixels<T>(p, c, c.in, c.out, c.tile_columns, Kernel::kChannels,
                                     sizeof(typename S::Code));
      return sweep(kernel, call, kPixelThreads, kPixelThreads, Kernel::kBlocks, S::kWarmUp, queue);
    };
    if constexpr (!S::kLinear)
      if (c.codes)
        return launch_as(static_cast<ForwardNhwc<T, S, true>*>(nullptr), forward_nhwc<T, S, true>);
    return launch_as(static_cast<ForwardNhwc<T, Plain, false>*>(nullptr),
                     forward_nhwc<T, Plain, false>);
  });
}

template <class T>
cudaError_t backward_nhwc_as(const Params& p, Call c, const Queue& queue) {
  return with_sizes(p, [&](auto sizes) {
    using S = decltype(sizes);
    using Kernel = BackwardNhwc<T, S>;
    Call call = in_pixels<T>(p, c, c.out, c.in, int(ceil_div(c.w, kStrip)), Kernel::kChannels,
                             sizeof(typename S::Code));
    call.steps = Kernel::steps(c.h);
    return sweep(backward_nhwc<T, S>, call, kPixelThreads, kPixelThreads, Kernel::kBlocks,
                 S::kBackwardWarmUp, queue);
  });
}

}  // namespace fastblur::cuda
