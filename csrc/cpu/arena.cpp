// The memory that each thread keeps for scratch. Other blocks are allocated one by one.
#include "cpu/arena.h"

#include <cstdlib>
#include <functional>
#include <new>

namespace fastblur::cpu {
namespace {

// The bytes that a thread keeps. AddressSanitizer guards a block only if it comes from malloc, so
// its builds keep none.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kKept = 0;
#else
constexpr size_t kKept = 256 << 10;
#endif

char* allocate(size_t bytes) {
  void* const block = std::aligned_alloc(64, bytes);
  if (!block) throw std::bad_alloc();
  return static_cast<char*>(block);
}

// Hands out its memory from front to back. A call gives back all its blocks, in any order, before
// the next call takes any. So the arena begins at the front again when no block is in use.
struct Arena {
  ~Arena() { std::free(memory); }
  bool has(const void* block) const {
    const std::less<const char*> before;
    const auto* const p = static_cast<const char*>(block);
    return memory && !before(p, memory) && before(p, memory + kKept);
  }
  char* memory = nullptr;
  size_t used = 0, blocks = 0;
};

thread_local Arena arena;

}  // namespace

void* take_scratch(size_t bytes) {
  Arena& a = arena;
  if (bytes > kKept - a.used) return allocate(bytes);
  if (!a.memory) a.memory = allocate(kKept);
  char* const block = a.memory + a.used;
  a.used += bytes, ++a.blocks;
  return block;
}

void give_back_scratch(void* block) noexcept {
  Arena& a = arena;
  if (!a.has(block)) return std::free(block);
  if (--a.blocks == 0) a.used = 0;
}

}  // namespace fastblur::cpu
