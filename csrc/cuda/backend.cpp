// The CUDA backend of the three operators: device, stream, scratch memory, and errors. Nothing here
// waits for the device or allocates outside torch's pool, so that CUDA graphs can capture it.
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <array>
#include <atomic>

#include "../backend_operators.h"
#include "build.h"

namespace fastblur::cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, which, device);
  TORCH_CHECK(error == cudaSuccess, "fastblur cannot read the attributes of CUDA device ", device,
              ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
  return value;
}

// Asked of each device once: a small call has no time for more.
int multiprocessors(c10::DeviceIndex device) {
  static std::array<std::atomic<int>, C10_COMPILE_TIME_MAX_GPUS> known{};
  auto& count = known.at(size_t(device));
  if (count.load(std::memory_order_relaxed) == 0)
    count.store(attribute(cudaDevAttrMultiProcessorCount, device), std::memory_order_relaxed);
  return count.load(std::memory_order_relaxed);
}

void check_launch(cudaError_t error, const char* name, const Params& p, Type type, int device) {
  if (error == cudaSuccess) return;
  if (error == cudaErrorNoKernelImageForDevice) {
    const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
    const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
    TORCH_CHECK(false, "fastblur was built for ", built_archs(),
                " and has no kernels for CUDA device ", device, ", of compute capability ", major,
                ".", minor, "; rebuild it with TORCH_CUDA_ARCH_LIST=", major, ".", minor);
  }
  TORCH_CHECK(false, "fastblur ", name, " (", specialisation(p, type),
              ") could not start: ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
}

// Calls f(type, queue) with the device of t current, and checks the launch that it returns.
template <class F>
void launch_on_device_of(const at::Tensor& t, const char* name, const Params& p, F f) {
  const c10::cuda::CUDAGuard guard(t.device());
  const Type type = type_of(t.scalar_type());
  const Queue queue{c10::cuda::getCurrentCUDAStream(), multiprocessors(t.device().index())};
  check_launch(f(type, queue), name, p, type, t.device().index());
}

const uint32_t* words(const at::Tensor& codes) {
  return static_cast<const uint32_t*>(codes.const_data_ptr());
}

struct Cuda {
  static constexpr at::ScalarType kCodeType = at::kInt;
  static constexpr uintptr_t kAlignment = 16;  // the widest access; torch's own memory has more

  static int64_t codes_per_image(const Params& p, at::ScalarType type) {
    return code_words_per_image(p, type_of(type));
  }

  static void forward(const Params& p, const at::Tensor& x, const at::Tensor& y,
                      const at::Tensor& codes) {
    const bool scratch = codes.size(1) == 0 && forward_needs_codes(p, type_of(x.scalar_type()));
    const at::Tensor room =
        scratch ? at::empty({p.batch, codes_per_image(p, x.scalar_type())}, codes.options())
                : codes;
    auto* out = room.size(1) ? static_cast<uint32_t*>(room.mutable_data_ptr()) : nullptr;
    launch_on_device_of(x, "forward", p, [&](Type type, const Queue& queue) {
      return cuda::forward(p, type, x.const_data_ptr(), y.mutable_data_ptr(), out, queue);
    });
  }

  static void backward(const Params& p, const at::Tensor& dy, const at::Tensor& codes,
                       const at::Tensor& dx) {
    launch_on_device_of(dy, "backward", p, [&](Type type, const Queue& queue) {
      return cuda::backward(p, type, dy.const_data_ptr(), words(codes), dx.mutable_data_ptr(),
                            queue);
    });
  }

  static void apply(const Params& p, const at::Tensor& x, const at::Tensor& codes,
                    const at::Tensor& y) {
    launch_on_device_of(x, "apply", p, [&](Type type, const Queue& queue) {
      return cuda::apply(p, type, x.const_data_ptr(), words(codes), y.mutable_data_ptr(), queue);
    });
  }
};

TORCH_LIBRARY_IMPL(fastblur, CUDA, m) { Operators<Cuda>::implement(m); }

}  // namespace
}  // namespace fastblur::cuda
