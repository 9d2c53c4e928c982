// A tensor as the runner gives it to a kernel: surrounded by bytes that nobody may touch.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda_on_host.h"
#include "trace.h"

#if defined(CUDA_ON_HOST_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_on_host {

class Tensor {
 public:
  // Starts `offset` bytes behind a multiple of 512. An output begins as NaNs; an input is copied
  // from `bytes`, and must be the same at the end. `before`: bytes of the tensor that are not
  // there, and that nobody may touch either.
  Tensor(const char* name, Role role, size_t size, size_t offset, const char* bytes = nullptr,
         size_t before = 0)
      : name_(name), size_(size), before_(before), original_(bytes) {
    room_ = (kAround + offset + size + kAround + 511) / 512 * 512;
    memory_ = static_cast<char*>(std::aligned_alloc(512, room_));
    if (!memory_) fail("no memory for %zu bytes", room_);
    data_ = memory_ + kAround + offset;
    std::memset(memory_, kUntouched, room_);
    if (bytes) std::memcpy(data_, bytes, size);
    else std::memset(data_, 0xff, size);
#if defined(CUDA_ON_HOST_ASAN)
    ASAN_POISON_MEMORY_REGION(memory_, size_t(data_ - memory_));
    ASAN_UNPOISON_MEMORY_REGION(data_, size_);
    ASAN_POISON_MEMORY_REGION(data_ + size_, size_t(memory_ + room_ - data_ - size_));
#endif
    trace_buffer(name, role, data_, size);
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() { std::free(memory_); }

  // Where the tensor begins, or would begin.
  void* address() const { return reinterpret_cast<void*>(uintptr_t(data_) - before_); }
  void* data() const { return data_; }
  size_t size() const { return size_; }

  // To be called when the kernels are done.
  void check() const {
    if (original_ && size_ && std::memcmp(original_, data_, size_)) {
      fail("%s, an input, was changed", name_.c_str());
    }
#if defined(CUDA_ON_HOST_ASAN)
    ASAN_UNPOISON_MEMORY_REGION(memory_, room_);
#endif
    for (const char* p = memory_; p < memory_ + room_; ++p) {
      if (p == data_) p += size_;
      if (*p != kUntouched) fail("a write to byte %td of %s", p - data_, name_.c_str());
    }
  }

 private:
  static constexpr size_t kAround = 512;
  static constexpr char kUntouched = char(0xa5);

  std::string name_;
  size_t size_, before_, room_;
  const char* original_;
  char *memory_, *data_;
};

}  // namespace cuda_on_host
