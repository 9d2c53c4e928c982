// The CPU backend. All tensors are dense in the layout of the call, codes as codes.h says.
#pragma once

#include <string>

#include "kernels.h"

namespace fastblur::cpu {

// A call but for its tensors, made once for many: its vertical taps take as long as a small call.
class Call {
 public:
  Call(const Params& p, Type type) : p_(p), type_(type), vertical_(p) {}
  void forward(const void* x, void* y, uint8_t* codes,
               int threads) const;  // codes may be null: then none are kept
  void backward(const void* dy, const uint8_t* codes, void* dx, int threads) const;
  void apply(const void* x, const uint8_t* codes, void* y, int threads) const;
  const Params& p() const { return p_; }

 private:
  Params p_;
  Type type_;
  VerticalTaps vertical_;
};

// For people: which sizes of a call the kernels know at compile time.
std::string specialisation(const Params& geometry, bool channels_last);

}  // namespace fastblur::cpu
