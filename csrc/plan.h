// Plan: checks the arguments that come from Python. It keeps the geometry and, with the size of an
// input, turns it into Params.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "params.h"

namespace fastblur {

// The sizes of x and the layout of a call: channels_last or contiguous. All tensors of the call are
// dense in that layout.
struct Input {
  int64_t n, c, h, w;
  bool channels_last;
};

// A failed check throws std::invalid_argument that names the argument, the value and the rule.
class Plan {
 public:
  Plan(const std::vector<int64_t>& kernel_size,   // (h, w)
       const std::vector<int64_t>& stride,        // (h, w)
       const std::vector<int64_t>& padding,       // (h, w)
       const std::vector<double>& taps_h,         // vertical
       const std::vector<double>& taps_w,         // horizontal
       const std::vector<int64_t>& blur_padding,  // (top, bottom, left, right)
       const std::string& padding_mode, bool relu);

  // The geometry without the sizes of x.
  const Params& geometry() const { return geometry_; }
  Params params(const Input& input) const;

 private:
  Params geometry_{};
};

}  // namespace fastblur
