// Memory of tensors between guard pages. The bytes around a tensor are poisoned for
// AddressSanitizer as well; the guard pages catch what it does not see, such as inline assembly.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "input/case.h"

extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(void const volatile*, size_t);
__attribute__((weak)) void __asan_unpoison_memory_region(void const volatile*, size_t);
}

namespace fuzz {

// Room for one tensor, used again and again.
class Room {
 public:
  Room() {
    void* const pages = mmap(nullptr, kBytes + 2 * kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) std::abort();
    begin_ = static_cast<char*>(pages) + kPage;
    if (mprotect(pages, kPage, PROT_NONE) || mprotect(begin_ + kBytes, kPage, PROT_NONE))
      std::abort();
    poison(begin_, kBytes);
  }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

  // The tensor's memory, filled with a byte. What the room gave before is no longer valid.
  void* give(const Case& c, size_t bytes, size_t element, int fill) {
    if (bytes + 64 + 64 * element > kBytes) std::abort();
    if (data_) poison(data_, size_);
    data_ = begin_, size_ = bytes;
    if (c.place == Place::end) data_ += kBytes - bytes;
    if (c.place == Place::inside) data_ += 64 + size_t(c.offset) * element;
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(data_, bytes);
    std::memset(data_, fill, bytes);
    return data_;
  }

 private:
  static void poison(char* at, size_t bytes) {
    if (__asan_poison_memory_region) __asan_poison_memory_region(at, bytes);
  }
  static constexpr size_t kPage = 4096, kBytes = 1 << 20;
  char *begin_, *data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fuzz
