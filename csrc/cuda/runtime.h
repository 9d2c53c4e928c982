// CUDA's headers, the launch of a kernel, and all accesses of the kernels to global memory. With
// FASTBLUR_CUDA_ON_HOST the same functions run in tests/cuda_on_host/, which executes device code
// on the CPU. There, every access is counted and its alignment is checked.
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

// An integer type of kBytes bytes, or a vector of integers, that one instruction loads or stores.
template <size_t kBytes>
using BitsOf = std::conditional_t<
    kBytes == 16, uint4,
    std::conditional_t<
        kBytes == 8, uint2,
        std::conditional_t<kBytes == 4, unsigned,
                           std::conditional_t<kBytes == 2, unsigned short, unsigned char>>>>;

// Kernels access global memory only through load, store and prefetch. One access of load or store
// has sizeof(V) bytes.
template <class V>
FASTBLUR_DEVICE V load(const V* from) {
#if defined(FASTBLUR_CUDA_ON_HOST)
  cuda_on_host::on_load(from, sizeof(V), alignof(V));
  return *from;
#else
  // The tensors that a kernel reads do not change while it runs. Loads may therefore use the
  // read-only path, and the compiler may move them ahead of stores.
  using Bits = BitsOf<sizeof(V)>;
  const Bits bits = __ldg(reinterpret_cast<const Bits*>(from));
  V value;
  memcpy(&value, &bits, sizeof(V));
  return value;
#endif
}

// Requests the cache line at `from` into L2, so that a later load does not wait for DRAM. Takes no
// register.
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
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.stream = stream;
  // Its own error. The last error of the thread may be another library's, and stays for it to find.
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args...);
  if (error != cudaSuccess) cudaGetLastError();  // clears ours, which is reported
  return error;
#endif
}
#endif

}  // namespace fastblur::cuda
