// What a CUDA kernel finds when g++ compiles it for the CPU: the keywords, the built-in variables,
// barriers, shuffles and integer intrinsics. Each CUDA thread is a fiber, see executor.cpp; every
// access to global memory is announced here, see trace.cpp.
//
// Stricter than CUDA: a mask of a warp must be full, all lanes must come to the same line, and a
// thread must not leave a kernel while others of its block (of its warp) still synchronise.
#pragma once

// All of the library that a kernel could want comes first: it must not see __noinline__ as a macro.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__ inline
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
// All fibers run in one thread of the system, so they share its variables; and the program's
// thread-local variables lie together, where the executor finds and poisons them before each block.
#define __shared__ static thread_local

// Written by the executor when it switches threads.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_host {

using Site = std::source_location;

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void fail_misaligned(const void* address, size_t bytes, size_t align);

extern bool tracing;
void trace_access(const void* address, size_t bytes, size_t align, bool write);

inline void on_access(const void* address, size_t bytes, size_t align, bool write) {
  if (reinterpret_cast<uintptr_t>(address) % align) fail_misaligned(address, bytes, align);
  if (tracing) trace_access(address, bytes, align, write);
}
inline void on_load(const void* from, size_t bytes, size_t align) {
  on_access(from, bytes, align, false);
}
// A prefetch moves nothing that a kernel sees, but what it names must be there.
void check_in_tensor(const void* address);
inline void on_prefetch(const void* from) {
  if (tracing) check_in_tensor(from);
  (void)*static_cast<const volatile char*>(from);
}
inline void on_store(const void* to, size_t bytes, size_t align) {
  on_access(to, bytes, align, true);
}

// A thread leaves the regular path of its kernel.
void trace_rare();
inline void on_rare() {
  if (tracing) trace_rare();
}

cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* kernel);
void* dynamic_shared();  // what `extern __shared__` is on a device

void wait_for_block(Site site);
// Waits for the other lanes. `ordered`: memory too, as for __syncwarp; shuffles do not order it.
void wait_for_warp(const char* what, unsigned mask, Site site, bool ordered);
void deposit(uint64_t value);  // before the wait, for the other lanes to
uint64_t collect(int lane);    // after it
unsigned lane();
unsigned lanes();  // of this warp: less than 32 at the end of an odd-sized block

template <class... P, class... A>
cudaError_t launch_shared(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t, A... args) {
  static_assert((0 + ... + sizeof(P)) <= 4096, "the parameters of a kernel are too large");
  auto body = [&] { kernel(static_cast<P>(args)...); };
  auto call = [](void* kernel) { (*static_cast<decltype(body)*>(kernel))(); };
  return run(grid, block, shared_bytes, call, &body);
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, A... args) {
  return launch_shared(kernel, grid, block, 0, stream, args...);
}

// `source` gives the lane to take the value from. Lanes that do not exist send NaN.
template <class T, class F>
T shuffle(const char* what, unsigned mask, T value, int width, Site site, F source) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  if (width < 1 || width > 32 || (width & (width - 1))) fail("%s: width %d", what, width);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  deposit(bits);
  wait_for_warp(what, mask, site, false);
  const int me = int(lane()), first = me / width * width;
  bits = collect(source(me - first, first));
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_on_host

#define CUDA_ON_HOST_SITE cuda_on_host::Site site = cuda_on_host::Site::current()

inline void __syncthreads(CUDA_ON_HOST_SITE) { cuda_on_host::wait_for_block(site); }
inline void __syncwarp(unsigned mask = ~0u, CUDA_ON_HOST_SITE) {
  cuda_on_host::wait_for_warp("__syncwarp", mask, site, true);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUDA_ON_HOST_SITE) {
  return cuda_on_host::shuffle("__shfl_sync", mask, value, width, site,
                               [=](int, int first) { return first + (from & (width - 1)); });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_ON_HOST_SITE) {
  return cuda_on_host::shuffle("__shfl_up_sync", mask, value, width, site, [=](int me, int first) {
    return first + (unsigned(me) >= by ? me - int(by) : me);
  });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, CUDA_ON_HOST_SITE) {
  return cuda_on_host::shuffle(
      "__shfl_down_sync", mask, value, width, site,
      [=](int me, int first) { return first + (by < unsigned(width - me) ? me + int(by) : me); });
}
// Unlike the others, may take a value from an earlier group of `width` lanes, not from a later one.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, CUDA_ON_HOST_SITE) {
  return cuda_on_host::shuffle("__shfl_xor_sync", mask, value, width, site, [=](int me, int first) {
    const int from = ((first + me) ^ with) & 31;
    return from < first + width ? from : first + me;
  });
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_HOST_SITE) {
  cuda_on_host::deposit(predicate != 0);
  cuda_on_host::wait_for_warp("__ballot_sync", mask, site, false);
  unsigned votes = 0;
  for (unsigned i = 0; i < cuda_on_host::lanes(); ++i) {
    votes |= unsigned(cuda_on_host::collect(int(i))) << i;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_HOST_SITE) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_HOST_SITE) {
  return __ballot_sync(mask, !predicate, site) == 0;
}
#undef CUDA_ON_HOST_SITE

#include "intrinsics.h"
