// The CPU backend of the three operators: checks, threads, and the choice of kernel.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../arguments.h"
#include "codes.h"
#include "level_choice.h"

namespace fastblur::cpu {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth waking a thread for

// Calls f with a null pointer of the element type.
template <class F>
void with_type_of(const at::Tensor& t, F f) {
  switch (t.scalar_type()) {
    case at::kFloat: return f(static_cast<float*>(nullptr));
    case at::kDouble: return f(static_cast<double*>(nullptr));
    case at::kHalf: return f(static_cast<c10::Half*>(nullptr));
    default: return f(static_cast<c10::BFloat16*>(nullptr));
  }
}

// Splits `images` * `rows` rows of `row_length` elements among the threads, never within a block of
// eight rows of an image (see codes.h).
template <class F>
void parallel_rows(int64_t images, int64_t rows, int64_t row_length, F f) {
  const int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  const int64_t grain = kGrain / (row_length * kRowsPerBlock) + 1;
  const auto row_at = [&](int64_t block) {
    return block / blocks * rows + block % blocks * kRowsPerBlock;
  };
  at::parallel_for(0, images * blocks, grain,
                   [&](int64_t begin, int64_t end) { f(row_at(begin), row_at(end)); });
}

at::Tensor empty_like_in(const Params& p, at::IntArrayRef size, const at::Tensor& like) {
  return at::empty(size, like.options().memory_format(memory_format(p)));
}

at::Tensor check_codes(const Params& p, const at::Tensor& codes, const at::Tensor& beside) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte,
                   "codes must be the uint8 tensor that forward on the CPU returned, got ",
                   codes.scalar_type());
  TORCH_CHECK(codes.device() == beside.device(), "codes must be on the input's device ",
              beside.device(), ", got ", codes.device());
  TORCH_CHECK_VALUE(codes.sizes() == at::IntArrayRef({p.batch, code_bytes_per_image(p)}),
                    "codes must belong to this geometry, which has shape [", p.batch, ", ",
                    code_bytes_per_image(p), "], got ", codes.sizes());
  return codes.contiguous();
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& x, at::IntArrayRef kernel_size,
                                           at::IntArrayRef stride, at::IntArrayRef padding,
                                           at::ArrayRef<double> taps_h, at::ArrayRef<double> taps_w,
                                           at::IntArrayRef blur_padding,
                                           std::string_view padding_mode, bool relu,
                                           bool channels_last, bool need_codes) {
  check_tensor(x, "input");
  const Params p = make_params(x.sizes(), {kernel_size, stride, padding, taps_h, taps_w,
                                           blur_padding, padding_mode, relu, channels_last});
  const at::Tensor dense = x.contiguous(memory_format(p));
  at::Tensor y = empty_like_in(p, output_size(p), x);
  const int64_t n_codes = need_codes ? code_bytes_per_image(p) : 0;
  at::Tensor codes = at::empty({p.batch, n_codes}, x.options().dtype(at::kByte));
  const VerticalTaps vertical(p);
  with_type_of(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto kernel = level().kernels(type).forward;
    const T* in = dense.const_data_ptr<T>();
    T* out = y.mutable_data_ptr<T>();
    uint8_t* code = n_codes ? codes.mutable_data_ptr<uint8_t>() : nullptr;
    parallel_rows(
        p.batch, code_rows_per_image(p), code_row_length(p),
        [&](int64_t begin, int64_t end) { kernel(p, vertical, in, out, code, begin, end); });
  });
  return {y, codes};
}

at::Tensor backward(const at::Tensor& dy, const at::Tensor& codes, at::IntArrayRef input_size,
                    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                    at::ArrayRef<double> taps_h, at::ArrayRef<double> taps_w,
                    at::IntArrayRef blur_padding, std::string_view padding_mode, bool relu,
                    bool channels_last) {
  check_tensor(dy, "grad_output");
  const Params p = make_params(input_size, {kernel_size, stride, padding, taps_h, taps_w,
                                            blur_padding, padding_mode, relu, channels_last});
  TORCH_CHECK_VALUE(dy.sizes() == at::IntArrayRef(output_size(p)),
                    "grad_output must have the output's shape ", at::IntArrayRef(output_size(p)),
                    ", got ", dy.sizes());
  const at::Tensor code = check_codes(p, codes, dy);
  const at::Tensor dense = dy.contiguous(memory_format(p));
  at::Tensor dx = empty_like_in(p, input_size, dy);
  const VerticalTaps vertical(p);
  with_type_of(dy, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto kernel = level().kernels(type).backward;
    const T* in = dense.const_data_ptr<T>();
    T* out = dx.mutable_data_ptr<T>();
    const uint8_t* bits = code.const_data_ptr<uint8_t>();
    parallel_rows(
        p.batch, p.units_per_image() * p.h.size, p.w.size * p.step(),
        [&](int64_t begin, int64_t end) { kernel(p, vertical, in, bits, out, begin, end); });
  });
  return dx;
}

at::Tensor apply(const at::Tensor& x, const at::Tensor& codes, at::IntArrayRef kernel_size,
                 at::IntArrayRef stride, at::IntArrayRef padding, at::ArrayRef<double> taps_h,
                 at::ArrayRef<double> taps_w, at::IntArrayRef blur_padding,
                 std::string_view padding_mode, bool relu, bool channels_last) {
  check_tensor(x, "input");
  const Params p = make_params(x.sizes(), {kernel_size, stride, padding, taps_h, taps_w,
                                           blur_padding, padding_mode, relu, channels_last});
  const at::Tensor code = check_codes(p, codes, x);
  const at::Tensor dense = x.contiguous(memory_format(p));
  at::Tensor y = empty_like_in(p, output_size(p), x);
  const VerticalTaps vertical(p);
  with_type_of(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto kernel = level().kernels(type).apply;
    const T* in = dense.const_data_ptr<T>();
    T* out = y.mutable_data_ptr<T>();
    const uint8_t* bits = code.const_data_ptr<uint8_t>();
    parallel_rows(
        p.batch, code_rows_per_image(p), code_row_length(p),
        [&](int64_t begin, int64_t end) { kernel(p, vertical, in, bits, out, begin, end); });
  });
  return y;
}

TORCH_LIBRARY_IMPL(fastblur, CPU, m) {
  m.impl("max_blur_pool_forward", &forward);
  m.impl("max_blur_pool_backward", &backward);
  m.impl("max_blur_pool_apply", &apply);
}

}  // namespace
}  // namespace fastblur::cpu
