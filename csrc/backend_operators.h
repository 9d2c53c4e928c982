// The three operators of a compiled backend, given its kernels: checks, memory, registration.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstdint>
#include <tuple>

#include "arguments.h"

namespace fastblur {

// A Backend is a class of static members:
//
//   kCodeType                     the codes are [N, codes_per_image(p, dtype of x)] of this type
//   kAlignment                    of the address of each tensor that a kernel reads, in bytes
//   forward(p, x, y, codes)       codes are [N, 0] if nobody wants them
//   backward(p, dy, codes, dx)
//   apply(p, x, codes, y)
//
// Its kernels get checked tensors of one device, dense in memory_format(p).
template <class Backend>
struct Operators {
  static std::tuple<at::Tensor, at::Tensor> forward(
      const at::Tensor& x, at::IntArrayRef kernel_size, at::IntArrayRef stride,
      at::IntArrayRef padding, at::ArrayRef<double> taps_h, at::ArrayRef<double> taps_w,
      at::IntArrayRef blur_padding, std::string_view padding_mode, bool relu, bool channels_last,
      bool need_codes) {
    check_tensor(x, "input");
    const Params p = make_params(x.sizes(), {kernel_size, stride, padding, taps_h, taps_w,
                                             blur_padding, padding_mode, relu, channels_last});
    const at::Tensor in = readable(x, memory_format(p));
    at::Tensor y = empty(p, output_size(p), x);
    const int64_t n_codes = need_codes ? Backend::codes_per_image(p, x.scalar_type()) : 0;
    at::Tensor codes = at::empty({p.batch, n_codes}, x.options().dtype(Backend::kCodeType));
    Backend::forward(p, in, y, codes);
    return {y, codes};
  }

  static at::Tensor backward(const at::Tensor& dy, const at::Tensor& codes,
                             at::IntArrayRef input_size, at::IntArrayRef kernel_size,
                             at::IntArrayRef stride, at::IntArrayRef padding,
                             at::ArrayRef<double> taps_h, at::ArrayRef<double> taps_w,
                             at::IntArrayRef blur_padding, std::string_view padding_mode, bool relu,
                             bool channels_last) {
    check_tensor(dy, "grad_output");
    const Params p = make_params(input_size, {kernel_size, stride, padding, taps_h, taps_w,
                                              blur_padding, padding_mode, relu, channels_last});
    check_grad_output(p, dy);
    const at::Tensor code = readable_codes(p, codes, dy);
    const at::Tensor in = readable(dy, memory_format(p));
    at::Tensor dx = empty(p, input_size, dy);
    Backend::backward(p, in, code, dx);
    return dx;
  }

  static at::Tensor apply(const at::Tensor& x, const at::Tensor& codes, at::IntArrayRef kernel_size,
                          at::IntArrayRef stride, at::IntArrayRef padding,
                          at::ArrayRef<double> taps_h, at::ArrayRef<double> taps_w,
                          at::IntArrayRef blur_padding, std::string_view padding_mode, bool relu,
                          bool channels_last) {
    check_tensor(x, "input");
    const Params p = make_params(x.sizes(), {kernel_size, stride, padding, taps_h, taps_w,
                                             blur_padding, padding_mode, relu, channels_last});
    const at::Tensor code = readable_codes(p, codes, x);
    const at::Tensor in = readable(x, memory_format(p));
    at::Tensor y = empty(p, output_size(p), x);
    Backend::apply(p, in, code, y);
    return y;
  }

  static void implement(torch::Library& m) {
    m.impl("max_blur_pool_forward", &forward);
    m.impl("max_blur_pool_backward", &backward);
    m.impl("max_blur_pool_apply", &apply);
  }

 private:
  static at::Tensor empty(const Params& p, at::IntArrayRef size, const at::Tensor& like) {
    return at::empty(size, like.options().memory_format(memory_format(p)));
  }

  // The tensor itself, or a copy of it that a kernel can read.
  static at::Tensor readable(const at::Tensor& t, at::MemoryFormat format) {
    const at::Tensor dense = t.contiguous(format);
    const auto address = reinterpret_cast<uintptr_t>(dense.const_data_ptr());
    return address % Backend::kAlignment == 0 ? dense : dense.clone();
  }

  static at::Tensor readable_codes(const Params& p, const at::Tensor& codes,
                                   const at::Tensor& beside) {
    const int64_t per_image = Backend::codes_per_image(p, beside.scalar_type());
    check_codes(p, codes, beside, Backend::kCodeType, per_image);
    return readable(codes, at::MemoryFormat::Contiguous);
  }
};

}  // namespace fastblur
