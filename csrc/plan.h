// The geometry as it comes from Python, and the checks that turn it into Params.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "params.h"

namespace fastblur {

// Sizes of x; "dense in the layout" of a call means in channels_last or in contiguous order.
struct Input {
  int64_t n, c, h, w;
  bool channels_last;
};

// Every check throws std::invalid_argument naming argument, value and rule.
class Plan {
 public:
  Plan(const std::vector<int64_t>& kernel_size,   // (h, w)
       const std::vector<int64_t>& stride,        // (h, w)
       const std::vector<int64_t>& padding,       // (h, w)
       const std::vector<double>& taps_h,         // vertical
       const std::vector<double>& taps_w,         // horizontal
       const std::vector<int64_t>& blur_padding,  // (top, bottom, left, right)
       const std::string& padding_mode, bool relu);

  // All but the sizes.
  const Params& geometry() const { return geometry_; }
  Params params(const Input& input) const;

 private:
  Params geometry_{};
};

}  // namespace fastblur
