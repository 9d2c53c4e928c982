// Memory for the scratch of the kernels.
#pragma once

#include <cstddef>

namespace fastblur::cpu {

// Memory aligned to 64 bytes, a multiple of 64 in size. Each thread keeps some for small blocks,
// because malloc would take longer than the kernels on a small map. Throws std::bad_alloc.
void* take_scratch(size_t bytes);
void give_back_scratch(void* block) noexcept;

}  // namespace fastblur::cpu
