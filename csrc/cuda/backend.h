// What the torch side of the CUDA backend shares: element types, and the architectures built for.
#pragma once

#include <c10/core/ScalarType.h>

#include <sstream>
#include <string>
#include <vector>

#include "launch.h"

namespace fastblur::cuda {

// For the four types that check_tensor lets pass.
inline Type type_of(c10::ScalarType type) {
  switch (type) {
    case c10::kFloat: return Type::f32;
    case c10::kDouble: return Type::f64;
    case c10::kHalf: return Type::f16;
    default: return Type::bf16;
  }
}

// "sm_90" for each architecture that there is machine code for, "compute_120" for PTX.
inline std::vector<std::string> built_archs() {
#define FASTBLUR_TEXT_OF(...) #__VA_ARGS__
#define FASTBLUR_TEXT(...) FASTBLUR_TEXT_OF(__VA_ARGS__)
  std::istringstream text(FASTBLUR_TEXT(FASTBLUR_CUDA_ARCHS));
#undef FASTBLUR_TEXT
#undef FASTBLUR_TEXT_OF
  std::vector<std::string> archs;
  for (std::string arch; std::getline(text, arch, ',');) archs.push_back(arch);
  return archs;
}

}  // namespace fastblur::cuda
