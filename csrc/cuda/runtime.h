// What the backend uses of CUDA, on a device or, with FASTBLUR_CUDA_ON_HOST, on the test runner
// that executes device code on the CPU.
#pragma once

#if defined(FASTBLUR_CUDA_ON_HOST)
#include "cuda_on_host.h"
#else
#include <cuda_runtime.h>
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#define FASTBLUR_DEVICE __device__ __forceinline__
#if !defined(__CUDACC__) && !defined(__grid_constant__)
#define __grid_constant__
#endif

namespace fastblur::cuda {

constexpr int kWarp = 32;

// An integer type, or a vector of them, that one instruction loads or stores.
template <size_t kBytes>
using BitsOf = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<
        kBytes == 8, uint2,
        std::conditional_t<kBytes == 4, unsigned,
                           std::conditional_t<kBytes == 2, unsigned short, unsigned char>>>>;

// Every access to global memory goes through these two; V is as wide as the access. The runner
// counts them, and checks their alignment.
template <class V>
FASTBLUR_DEVICE V load(const V* from) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  cuda_on_host::on_load(from, sizeof(V), alignof(V));
  return *from;
#else
  // Nothing that a kernel reads is written while it runs, so loads may go through the read-only
  // path and be moved ahead of stores.
  using Bits = BitsOf<sizeof(V)>;
  const Bits bits = __ldg(reinterpret_cast<const Bits*>(from));
  V value;
  memcpy(&value, &bits, sizeof(V));
  return value;
#endif
}

// Asks for the line at `from` to be brought to L2, so that a load of it soon will not have to wait
// for DRAM. Costs no register.
template <class V>
FASTBLUR_DEVICE void prefetch(const V* from) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  cuda_on_host::on_prefetch(from);
#else
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#endif
}

template <class V>
FASTBLUR_DEVICE void store(V* to, V value) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  cuda_on_host::on_store(to, sizeof(V), alignof(V));
  *to = value;
#else
  BitsOf<sizeof(V)> bits;
  memcpy(&bits, &value, sizeof(V));
  *reinterpret_cast<BitsOf<sizeof(V)>*>(to) = bits;
#endif
}

#if defined(__CUDACC__) || defined(FASTBLUR_CUDA_ON_HOST)
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t stream, A... args) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  return cuda_on_host::launch(kernel, grid, block, stream, args...);
#else
  kernel<<<grid, block, 0, stream>>>(args...);
  return cudaGetLastError();
#endif
}
#endif

}  // namespace fastblur::cuda
