// The three operators, called through the dispatcher: what autograd and the bindings share.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <tuple>

#include "arguments.h"

namespace fastblur {

std::tuple<at::Tensor, at::Tensor> call_forward(const at::Tensor& x, const Arguments& a,
                                                bool need_codes);

at::Tensor call_backward(const at::Tensor& dy, const at::Tensor& codes,
                         c10::SymIntArrayRef input_size, const Arguments& a);

at::Tensor call_apply(const at::Tensor& x, const at::Tensor& codes, const Arguments& a);

}  // namespace fastblur
