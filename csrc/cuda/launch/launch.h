// The CUDA backend's entry points, one for each operator. The tests run them on the host.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "params.h"

namespace fastblur::cuda {

// Where a launch goes: a stream of the current device, and how many multiprocessors that has.
struct Queue {
  cudaStream_t stream;
  int multiprocessors;
};

// The codes of one image, in 32-bit words; see codes.h for their layout.
int64_t code_words_per_image(const Params& p, Type type);

// Whether forward needs room for codes even if nobody wants to keep them.
bool forward_needs_codes(const Params& p, Type type);

// Which kernel runs a call, in words, for people.
const char* specialisation(const Params& p, Type type);

// All tensors are dense in the memory format of p. An empty batch launches nothing. The result is
// that of the launch: cudaErrorInvalidConfiguration if the grid would be too large.
cudaError_t forward(const Params& p, Type type, const void* x, void* y, uint32_t* codes,
                    const Queue& queue);  // codes may be null unless forward_needs_codes
cudaError_t backward(const Params& p, Type type, const void* dy, const uint32_t* codes, void* dx,
                     const Queue& queue);
cudaError_t apply(const Params& p, Type type, const void* x, const uint32_t* codes, void* y,
                  const Queue& queue);

}  // namespace fastblur::cuda
