// Launches the specialised kernels for the contiguous format. in_groups adds to a Call what depends
// on this format and on the type; the launch functions then choose the sizes and call `sweep`.
#pragma once

#include "cuda/kernels/backward_nchw.cuh"
#include "cuda/kernels/forward_nchw.cuh"
#include "cuda/launch/sweep.cuh"

namespace fastblur::cuda {

constexpr int kUnitsPerBlock = kThreads / kWarp * kOwners;

// The columns that an access takes: at most `most`, such that every row is whole aligned vectors.
template <class T>
int columns_each(int row, const void* first, int most) {
  int each = most;
  while (row % each != 0 || !is_aligned(first, each * int64_t(sizeof(T)))) each /= 2;
  return each;
}

template <class T>
Call in_groups(const Params& p, Call c, const void* x, const void* y) {
  constexpr int L = kColumns<T>;
  group_columns(c, L);
  c.units = p.batch * p.channels * c.groups;
  c.each_x = columns_each<T>(c.w, x, L);
  c.each_y = columns_each<T>(c.y_w, y, L / 2);
  c.regular = c.each_x == L && c.each_y == L / 2 && c.y_w == c.groups * (L / 2) &&
              p.border == Border::reflect;
  return c;
}

template <class T>
cudaError_t forward_nchw_as(const Params& p, Call call, const Queue& queue) {
  Call c = in_groups<T>(p, call, call.in, call.out);
  return with_sizes(p, [&](auto sizes) {
    using S = decltype(sizes);
    c.steps = forward_steps(c, S::kRows);
    // Without codes, the kernel applies ReLU at run time (Call::floor), so ReLU needs no kernel of
    // its own.
    using Plain = Sizes<S::kPool, S::kPad, S::kTaps, false>;
    if constexpr (!S::kLinear)
      if (c.codes)
        return sweep(forward_nchw<T, S, true>, c, kUnitsPerBlock, kThreads, kBlocks<T, S, true>,
                     S::kWarmUp, queue);
    return sweep(forward_nchw<T, Plain, false>, c, kUnitsPerBlock, kThreads, kBlocks<T, Plain>,
                 S::kWarmUp, queue);
  });
}

template <class T>
cudaError_t backward_nchw_as(const Params& p, Call call, const Queue& queue) {
  Call c = in_groups<T>(p, call, call.out, call.in);
  return with_sizes(p, [&](auto sizes) {
    using S = decltype(sizes);
    using Kernel = BackwardNchw<T, S>;
    c.steps = Kernel::steps(c.h);
    return sweep(backward_nchw<T, S>, c, kUnitsPerBlock, kThreads, BackwardNchw<T, S>::kBlocks,
                 S::kBackwardWarmUp, queue);
  });
}

}  // namespace fastblur::cuda
