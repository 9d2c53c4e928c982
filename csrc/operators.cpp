// The schemas of the three operators. Kernels: cpu/max_blur_pool_cpu.cpp; derivatives:
// autograd.cpp; shapes for fake tensors: fastblur/_ops.py.
#include <torch/library.h>

#include "arguments.h"

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
