// The entry of the CPU backend: Call runs forward, backward and apply on raw addresses. All tensors
// are dense in the layout of the call; cpu/codes/layout.h describes the codes.
#pragma once

#include <string>

#include "cpu/targets/target.h"

namespace fastblur::cpu {

// Everything about a call except its tensors. One Call serves many calls, because computing the
// vertical taps takes as long as a small call.
class Call {
 public:
  Call(const Params& p, Type type) : p_(p), type_(type), vertical_(p) {}
  // forward keeps no codes if `codes` is null. forward and backward return whether they ran fused,
  // in one pass.
  bool forward(const void* x, void* y, uint8_t* codes, int threads) const;
  bool backward(const void* dy, const uint8_t* codes, void* dx, int threads) const;
  void apply(const void* x, const uint8_t* codes, void* y, int threads) const;
  // Tells people whether the call runs fused, in one pass, or staged, stage by stage, and which of
  // its sizes the kernels do not know at compile time.
  std::string specialisation() const;
  const Params& p() const { return p_; }

 private:
  Params p_;
  Type type_;
  VerticalTaps vertical_;
};

}  // namespace fastblur::cpu
