#include "cpu/arena.h"

#include <cstdlib>
#include <functional>
#include <new>

namespace fastblur::cpu {
namespace {

// A sanitizer guards each block only if malloc knows of it.
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

// The blocks of a call all go before the next call takes any, in whatever order: so memory is
// handed out front to back, and from the front again once no block is out.
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
