// The CUDA backend on a device and a stream. Nothing here waits for the device or allocates, so
// that CUDA graphs can capture it. All tensors are dense in the layout of the Params, and aligned
// to 16 bytes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cuda/launch/launch.h"

namespace fastblur::cuda {

struct Place {
  int device;
  uintptr_t stream;  // a cudaStream_t
};

// Each throws std::runtime_error if the launch fails.
void forward_on(Place place, const Params& p, Type type, const void* x, void* y,
                uint32_t* codes);  // codes may be null unless forward_needs_codes
void backward_on(Place place, const Params& p, Type type, const void* dy, const uint32_t* codes,
                 void* dx);
void apply_on(Place place, const Params& p, Type type, const void* x, const uint32_t* codes,
              void* y);

// Why no call can work on this machine, if so.
std::optional<std::string> problem();

// The version of CUDA that is linked in.
std::string runtime_version();

// "sm_90" for each architecture that there is machine code for, "compute_120" for PTX.
std::vector<std::string> built_archs();

}  // namespace fastblur::cuda
