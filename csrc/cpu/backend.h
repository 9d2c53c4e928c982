// The CPU backend. All tensors are dense in the layout of the call, codes as codes.h says.
#pragma once

#include <string>

#include "cpu/targets/target.h"

namespace fastblur::cpu {

// A call but for its tensors, made once for many: its vertical taps take as long as a small call.
class Call {
 public:
  Call(const Params& p, Type type) : p_(p), type_(type), vertical_(p) {}
  // codes may be null: then none are kept. Both return whether they ran in one pass.
  bool forward(const void* x, void* y, uint8_t* codes, int threads) const;
  bool backward(const void* dy, const uint8_t* codes, void* dx, int threads) const;
  void apply(const void* x, const uint8_t* codes, void* y, int threads) const;
  // For people: whether it runs fused, in one pass, or staged, stage by stage; and which of its
  // sizes the kernels do not know at compile time.
  std::string specialisation() const;
  const Params& p() const { return p_; }

 private:
  Params p_;
  Type type_;
  VerticalTaps vertical_;
};

}  // namespace fastblur::cpu
