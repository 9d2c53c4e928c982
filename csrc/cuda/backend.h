// The entry of the CUDA backend: the three operators on a device and a stream, and what this build
// supports. No function waits for the device or allocates, so CUDA graphs can capture the
// operators. All tensors are dense in the memory format of the Params and aligned to 16 bytes.
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

// Each throws std::runtime_error if its launch fails.
void forward_on(Place place, const Params& p, Type type, const void* x, void* y,
                uint32_t* codes);  // codes may be null unless forward_needs_codes()
void backward_on(Place place, const Params& p, Type type, const void* dy, const uint32_t* codes,
                 void* dx);
void apply_on(Place place, const Params& p, Type type, const void* x, const uint32_t* codes,
              void* y);

// The reason why no call can work on this machine, or nothing if calls can work.
std::optional<std::string> problem();

// The version of CUDA that fastblur is linked with.
std::string runtime_version();

// The architectures of this build: "sm_90" stands for machine code, "compute_120" for PTX.
std::vector<std::string> built_archs();

}  // namespace fastblur::cuda
