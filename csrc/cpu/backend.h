// The CPU backend. All tensors are dense in the layout of the Params, codes as codes.h says.
#pragma once

#include <string>

#include "../max_blur_pool.h"

namespace fastblur::cpu {

void forward(const Params& p, Type type, const void* x, void* y, uint8_t* codes,
             int threads);  // codes may be null: then none are kept
void backward(const Params& p, Type type, const void* dy, const uint8_t* codes, void* dx,
              int threads);
void apply(const Params& p, Type type, const void* x, const uint8_t* codes, void* y, int threads);

// For people: which sizes of a call the kernels know at compile time.
std::string specialisation(const Params& geometry, bool channels_last);

}  // namespace fastblur::cpu
