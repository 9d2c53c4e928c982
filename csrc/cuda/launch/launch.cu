// Chooses the kernel that runs a call, and launches the generic kernels. nchw.cuh and nhwc.cuh
// launch the specialised ones.
#include "cuda/kernels/generic.cuh"
#include "cuda/launch/sweep.cuh"

namespace fastblur::cuda {
namespace {

constexpr int kGenericThreads = 256;

// Calls f with a null pointer to the element type, from which f takes the type.
template <class F>
cudaError_t with_type(Type type, F f) {
  switch (type) {
    case Type::f32: return f(static_cast<float*>(nullptr));
    case Type::f64: return f(static_cast<double*>(nullptr));
    case Type::f16: return f(static_cast<__half*>(nullptr));
    default: return f(static_cast<__nv_bfloat16*>(nullptr));
  }
}

template <class... P, class... A>
cudaError_t for_each(int64_t threads, const Queue& queue, void (*kernel)(P...), A... args) {
  const int64_t blocks = ceil_div(threads, kGenericThreads);
  if (blocks == 0) return cudaSuccess;
  if (blocks > kMaxBlocks) return cudaErrorInvalidConfiguration;
  return launch(kernel, dim3(unsigned(blocks)), dim3(kGenericThreads), queue.stream,
                static_cast<P>(args)...);
}

int64_t y_elements(const Params& p) { return p.batch * p.channels * p.h.out() * p.w.out(); }
int64_t x_elements(const Params& p) { return p.batch * p.channels * p.h.size * p.w.size; }

}  // namespace

int64_t code_words_per_image(const Params& p, Type type) {
  return is_specialised(p, type) ? tile_words_per_image(p) : plane_words_per_image(p);
}

bool forward_needs_codes(const Params& p, Type type) {
  return !is_specialised(p, type) && !p.linear();
}

const char* specialisation(const Params& p, Type type) {
  return is_specialised(p, type) ? "specialised" : "generic";
}

cudaError_t forward(const Params& p, Type type, const void* x, void* y, uint32_t* codes,
                    const Queue& queue) {
  return with_type(type, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    if constexpr (!std::is_same_v<T, double>) {
      if (is_specialised(p, type)) {
        const Call call = make_call(p, x, y, p.linear() ? nullptr : codes);
        return p.channels_last ? forward_nhwc_as<T>(p, call, queue)
                               : forward_nchw_as<T>(p, call, queue);
      }
    }
    if (!p.linear()) {
      const int64_t groups = ceil_div(m_per_image(p), kWarp);
      const cudaError_t error =
          for_each(p.batch * groups * kWarp, queue, choose<T>, p, static_cast<const T*>(x), codes,
                   groups, plane_words_per_image(p));
      if (error != cudaSuccess) return error;
    }
    return apply(p, type, x, codes, y, queue);
  });
}

cudaError_t backward(const Params& p, Type type, const void* dy, const uint32_t* codes, void* dx,
                     const Queue& queue) {
  return with_type(type, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    if constexpr (!std::is_same_v<T, double>) {
      if (is_specialised(p, type)) {
        const Call call = make_call(p, dy, dx, const_cast<uint32_t*>(codes));
        return p.channels_last ? backward_nhwc_as<T>(p, call, queue)
                               : backward_nchw_as<T>(p, call, queue);
      }
    }
    return for_each(x_elements(p), queue, scatter<T>, p, static_cast<const T*>(dy), codes,
                    static_cast<T*>(dx), plane_words_per_image(p), x_elements(p));
  });
}

cudaError_t apply(const Params& p, Type type, const void* x, const uint32_t* codes, void* y,
                  const Queue& queue) {
  return with_type(type, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    const auto kernel = is_specialised(p, type) ? gather<T, true> : gather<T, false>;
    return for_each(y_elements(p), queue, kernel, p, static_cast<const T*>(x), codes,
                    static_cast<T*>(y), code_words_per_image(p, type), y_elements(p));
  });
}

}  // namespace fastblur::cuda
