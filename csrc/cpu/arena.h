// Scratch memory of the kernels. Each thread keeps some memory for small blocks, because malloc
// would take longer than the kernels on a small map.
#pragma once

#include <cstddef>

namespace fastblur::cpu {

// Returns memory aligned to 64 bytes. `bytes` must be a multiple of 64. Throws std::bad_alloc.
void* take_scratch(size_t bytes);
void give_back_scratch(void* block) noexcept;

}  // namespace fastblur::cpu
