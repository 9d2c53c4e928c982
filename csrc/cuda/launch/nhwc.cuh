// Launches the specialised kernels for the channels_last format. in_pixels adds to a Call what
// depends on this format and on the kernel; the launch functions then choose the sizes and call
// `sweep`.
#pragma once

#include "cuda/kernels/backward_nhwc.cuh"
#include "cuda/kernels/forward_nhwc.cuh"
#include "cuda/launch/sweep.cuh"

namespace fastblur::cuda {

// Completes a Call for threads that own `channels` channels each, in rows of `strips` strips.
template <class T>
Call in_pixels(const Params& p, Call c, const void* x, const void* y, int strips, int channels) {
  group_columns(c, kStrip);
  c.groups = strips;
  c.channel_groups = int(ceil_div(p.channels, channels));
  c.units = p.batch * strips * c.channel_groups;
  const int64_t bytes = channels * int64_t(sizeof(T));
  const bool whole = p.channels % channels == 0;
  c.wide_x = whole && is_aligned(x, bytes);
  c.wide_y = whole && is_aligned(y, bytes);
  // Whether y has every output of Zhang's padding. With less padding after the row, the last output
  // can be missing.
  const bool all_outputs = c.y_w == (c.m_w + 1) / 2;
  c.regular =
      c.wide_x && c.wide_y && c.w % kStrip == 0 && all_outputs && p.border == Border::reflect;
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
      const Call call = in_pixels<T>(p, c, c.in, c.out, c.tile_columns, Kernel::kChannels);
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
    Call call = in_pixels<T>(p, c, c.out, c.in, int(ceil_div(c.w, kStrip)), Kernel::kChannels);
    call.steps = Kernel::steps(c.h);
    return sweep(backward_nhwc<T, S>, call, kPixelThreads, kPixelThreads, Kernel::kBlocks,
                 S::kBackwardWarmUp, queue);
  });
}

}  // namespace fastblur::cuda
