// The op on a plain tensor: nothing is at work but autograd. What Python would have to find out,
// one question at a time, is asked here at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "arguments.h"

namespace fastblur {

// One geometry on one device. A call gives y, or nothing if the input or what is going on around it
// is anything but plain: then the caller goes on as if there were no such thing, and it is there
// that errors are raised.
class PlainCall {
 public:
  PlainCall(const Arguments& geometry, at::Device device) : geometry_(geometry), device_(device) {}
  std::optional<at::Tensor> operator()(const at::Tensor& x) const;

 private:
  OwnedArguments geometry_;  // without channels_last, which is the input's
  at::Device device_;
};

}  // namespace fastblur
