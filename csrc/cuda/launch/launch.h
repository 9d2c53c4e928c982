// The launches of the CUDA backend, one function for each operator. Each chooses the kernel from
// the Params and the Type, and launches it on a stream of the current device. The tests call the
// same functions to run the kernels on the host.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "params.h"

namespace fastblur::cuda {

// Where a launch goes: a stream of the current device, and the device's number of multiprocessors.
struct Queue {
  cudaStream_t stream;
  int multiprocessors;
};

// The size of one image's codes in 32-bit words; codes.h defines their layout.
int64_t code_words_per_image(const Params& p, Type type);

// Whether forward needs memory for codes even if the caller does not keep them.
bool forward_needs_codes(const Params& p, Type type);

// The kind of kernel that runs a call, as text for messages.
const char* specialisation(const Params& p, Type type);

// All tensors are dense in the memory format of p. An empty batch launches nothing. Each function
// returns the error of its launch: cudaErrorInvalidConfiguration if the grid would be too large.
cudaError_t forward(const Params& p, Type type, const void* x, void* y, uint32_t* codes,
                    const Queue& queue);  // codes may be null unless forward_needs_codes()
cudaError_t backward(const Params& p, Type type, const void* dy, const uint32_t* codes, void* dx,
                     const Queue& queue);
cudaError_t apply(const Params& p, Type type, const void* x, const uint32_t* codes, void* y,
                  const Queue& queue);

}  // namespace fastblur::cuda
