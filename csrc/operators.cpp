// The schemas of the three operators, and calls of them from C++. Kernels:
// cpu/max_blur_pool_cpu.cpp; derivatives: autograd.cpp; shapes for fake tensors: fastblur/_ops.py.
#include <torch/library.h>

#include "call_operators.h"

TORCH_LIBRARY(fastblur, m) {
  // The layout of the codes is tied to the strides the arguments had when the call was traced, so
  // a compiler must not change them.
  const std::vector<at::Tag> tags = {at::Tag::needs_exact_strides, at::Tag::pt2_compliant_tag};
  m.def("max_blur_pool_forward(Tensor x, " FASTBLUR_GEOMETRY_SCHEMA
        ", bool need_codes) -> (Tensor y, Tensor codes)",
        tags);
  m.def(
      "max_blur_pool_backward(Tensor grad_output, Tensor codes, SymInt[] "
      "input_size, " FASTBLUR_GEOMETRY_SCHEMA ") -> Tensor",
      tags);
  m.def("max_blur_pool_apply(Tensor x, Tensor codes, " FASTBLUR_GEOMETRY_SCHEMA ") -> Tensor",
        tags);
}

namespace fastblur {
namespace {

// Arguments, as the schemas have them.
#define FASTBLUR_GEOMETRY_TYPES                                                                  \
  at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, at::ArrayRef<double>, at::ArrayRef<double>, \
      at::IntArrayRef, std::string_view, bool, bool
#define FASTBLUR_GEOMETRY_OF(a)                                                                   \
  a.kernel_size, a.stride, a.padding, a.taps_h, a.taps_w, a.blur_padding, a.padding_mode, a.relu, \
      a.channels_last

template <class Signature>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> call_forward(const at::Tensor& x, const Arguments& a,
                                                bool need_codes) {
  static const auto op = find_operator<std::tuple<at::Tensor, at::Tensor>(
      const at::Tensor&, FASTBLUR_GEOMETRY_TYPES, bool)>("fastblur::max_blur_pool_forward");
  return op.call(x, FASTBLUR_GEOMETRY_OF(a), need_codes);
}

at::Tensor call_backward(const at::Tensor& dy, const at::Tensor& codes,
                         c10::SymIntArrayRef input_size, const Arguments& a) {
  static const auto op =
      find_operator<at::Tensor(const at::Tensor&, const at::Tensor&, c10::SymIntArrayRef,
                               FASTBLUR_GEOMETRY_TYPES)>("fastblur::max_blur_pool_backward");
  return op.call(dy, codes, input_size, FASTBLUR_GEOMETRY_OF(a));
}

at::Tensor call_apply(const at::Tensor& x, const at::Tensor& codes, const Arguments& a) {
  static const auto op =
      find_operator<at::Tensor(const at::Tensor&, const at::Tensor&, FASTBLUR_GEOMETRY_TYPES)>(
          "fastblur::max_blur_pool_apply");
  return op.call(x, codes, FASTBLUR_GEOMETRY_OF(a));
}

}  // namespace fastblur
