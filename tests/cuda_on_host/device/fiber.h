// A stack of its own, and the switch from one to another. The sanitizers are told of both.
//
// The files that include this are compiled without a sanitizer, so that scheduling is no access to
// memory for it; CUDA_ON_HOST_ASAN and CUDA_ON_HOST_TSAN say that the kernels have one.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(CUDA_ON_HOST_ASAN)
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(CUDA_ON_HOST_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// Pushes what a callee must keep, and goes on with the other stack.
extern "C" void cuda_on_host_switch(void** from, void* to);
asm(R"(
.text
.type cuda_on_host_switch, @function
cuda_on_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_host_switch, .-cuda_on_host_switch
)");
#endif

namespace cuda_on_host {

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The fiber of whoever calls, which needs no stack.
  void adopt() {
#if defined(CUDA_ON_HOST_ASAN)
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes)) abort();
    void* stack;
    pthread_attr_getstack(&attributes, &stack, &size_);
    pthread_attr_destroy(&attributes);
    stack_ = static_cast<char*>(stack);
#endif
#if defined(CUDA_ON_HOST_TSAN)
    tsan_ = __tsan_get_current_fiber();
#endif
  }

  // Never freed: there are at most as many as a block has threads.
  void create(void (*entry)()) {
    constexpr size_t kGuard = 4096;
    size_ = 256 << 10;
    void* memory = mmap(nullptr, kGuard + size_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE)) abort();
    stack_ = static_cast<char*>(memory) + kGuard;
#if defined(__x86_64__)
    // From the top: no return address, the entry to return to, six registers.
    void** top = reinterpret_cast<void**>(stack_ + size_);
    top[-2] = reinterpret_cast<void*>(entry);
    context_ = top - 8;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = size_;
    makecontext(&context_, entry, 0);
#endif
#if defined(CUDA_ON_HOST_TSAN)
    tsan_ = __tsan_create_fiber(0);
#endif
  }

  bool created() const { return stack_; }

  // Leaves this fiber, which runs, for `to`; returns when somebody switches back.
  void switch_to(Fiber& to) {
#if defined(CUDA_ON_HOST_ASAN)
    __sanitizer_start_switch_fiber(&fake_stack_, to.stack_, to.size_);
#endif
#if defined(CUDA_ON_HOST_TSAN)
    __tsan_switch_to_fiber(to.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__x86_64__)
    cuda_on_host_switch(&context_, to.context_);
#else
    swapcontext(&context_, &to.context_);
#endif
#if defined(CUDA_ON_HOST_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

  // To be called first on a new fiber.
  static void started() {
#if defined(CUDA_ON_HOST_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  }

 private:
  char* stack_ = nullptr;
  size_t size_ = 0;
#if defined(__x86_64__)
  void* context_ = nullptr;
#else
  ucontext_t context_;
#endif
  void* fake_stack_ = nullptr;
  void* tsan_ = nullptr;
};

// What happened before a release of `what` is visible after an acquire of it.
inline void release_memory(void* what) {
#if defined(CUDA_ON_HOST_TSAN)
  __tsan_release(what);
#endif
  (void)what;
}
inline void acquire_memory(void* what) {
#if defined(CUDA_ON_HOST_TSAN)
  __tsan_acquire(what);
#endif
  (void)what;
}

}  // namespace cuda_on_host
