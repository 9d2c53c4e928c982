// The arguments as they cross the operators' schemas, and the checks that turn them into Params.
// Shared by every compiled backend.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "max_blur_pool.h"

// The geometry part of every schema; struct Arguments is its C++ side.
#define FASTBLUR_GEOMETRY_SCHEMA                                                     \
  "int[] kernel_size, int[] stride, int[] padding, float[] taps_h, float[] taps_w, " \
  "int[] blur_padding, str padding_mode, bool relu, bool channels_last"

namespace fastblur {

struct Arguments {
  at::IntArrayRef kernel_size;   // (h, w)
  at::IntArrayRef stride;        // (h, w)
  at::IntArrayRef padding;       // (h, w)
  at::ArrayRef<double> taps_h;   // vertical
  at::ArrayRef<double> taps_w;   // horizontal
  at::IntArrayRef blur_padding;  // (top, bottom, left, right)
  std::string_view padding_mode;
  bool relu;
  bool channels_last;  // memory format of x, y and their gradients, and the layout of the codes
};

// Arguments that outlive a call.
struct OwnedArguments {
  // kernel_size, stride, padding, blur_padding, relu, channels_last, number of taps_h
  std::vector<int64_t> ints;
  std::vector<double> taps;  // h, then w
  std::string padding_mode;

  OwnedArguments() = default;
  explicit OwnedArguments(const Arguments& args);
  Arguments arguments() const;  // pointing here
};

// Checks the geometry and the four sizes of x. Throws ValueError naming argument, value and rule.
Params make_params(at::IntArrayRef input_size, const Arguments& args);

// Checks that a tensor is a dense 4-D floating-point one; `name` is for the message.
void check_tensor(const at::Tensor& t, const char* name);

// Checks that dy has the shape of y.
void check_grad_output(const Params& p, const at::Tensor& dy);

// Checks that codes are those of a backend which keeps [N, per_image] of `type`, and lie on the
// device of the tensor beside them.
void check_codes(const Params& p, const at::Tensor& codes, const at::Tensor& beside,
                 at::ScalarType type, int64_t per_image);

// The sizes of y for x of input_size, [N, C, H, W] -> [N, C, H_out, W_out].
std::array<int64_t, 4> output_size(const Params& p);

inline at::MemoryFormat memory_format(const Params& p) {
  return p.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

}  // namespace fastblur
