// The CPU backend of the three operators: threads, and the choice of kernel.
#include <ATen/Parallel.h>

#include "../backend_operators.h"
#include "codes.h"
#include "level_choice.h"

namespace fastblur::cpu {
namespace {

constexpr int64_t kGrain = 32768;        // elements worth waking a thread for
constexpr int64_t kUnitsPerThread = 16;  // for which no unit is cut

// Calls f with a null pointer of the element type.
template <class F>
void with_type_of(const at::Tensor& t, F f) {
  switch (t.scalar_type()) {
    case at::kFloat: return f(static_cast<float*>(nullptr));
    case at::kDouble: return f(static_cast<double*>(nullptr));
    case at::kHalf: return f(static_cast<c10::Half*>(nullptr));
    default: return f(static_cast<c10::BFloat16*>(nullptr));
  }
}

// Splits `rows` rows of `row_length` elements of each unit among the threads: whole units if there
// are enough of them for all threads, else anywhere. f(begin, end).
template <class F>
void parallel_rows(const Params& p, int64_t rows, int64_t row_length, F f) {
  const bool whole = p.units() >= kUnitsPerThread * at::get_num_threads();
  const int64_t together = whole ? rows : 1;
  at::parallel_for(0, p.units() * rows / together, kGrain / (row_length * together) + 1,
                   [&](int64_t begin, int64_t end) { f(begin * together, end * together); });
}

struct Cpu {
  static constexpr at::ScalarType kCodeType = at::kByte;
  static constexpr uintptr_t kAlignment = 1;  // any address will do

  static int64_t codes_per_image(const Params& p, at::ScalarType) {
    return code_bytes_per_image(p);
  }

  static void forward(const Params& p, const at::Tensor& x, const at::Tensor& y,
                      const at::Tensor& codes) {
    const VerticalTaps vertical(p);
    with_type_of(x, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const auto kernel = level().kernels(type).forward;
      const T* in = x.const_data_ptr<T>();
      T* out = y.mutable_data_ptr<T>();
      uint8_t* bits = codes.size(1) ? codes.mutable_data_ptr<uint8_t>() : nullptr;
      parallel_rows(p, p.h.pooled(), code_row_length(p), [&](int64_t begin, int64_t end) {
        kernel(p, vertical, in, out, bits, begin, end);
      });
    });
  }

  static void backward(const Params& p, const at::Tensor& dy, const at::Tensor& codes,
                       const at::Tensor& dx) {
    const VerticalTaps vertical(p);
    with_type_of(dy, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const auto kernel = level().kernels(type).backward;
      const T* in = dy.const_data_ptr<T>();
      T* out = dx.mutable_data_ptr<T>();
      const uint8_t* bits = codes.const_data_ptr<uint8_t>();
      parallel_rows(p, p.h.size, p.w.size * p.step(), [&](int64_t begin, int64_t end) {
        kernel(p, vertical, in, bits, out, begin, end);
      });
    });
  }

  static void apply(const Params& p, const at::Tensor& x, const at::Tensor& codes,
                    const at::Tensor& y) {
    const VerticalTaps vertical(p);
    with_type_of(x, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      const auto kernel = level().kernels(type).apply;
      const T* in = x.const_data_ptr<T>();
      T* out = y.mutable_data_ptr<T>();
      const uint8_t* bits = codes.const_data_ptr<uint8_t>();
      parallel_rows(p, p.h.pooled(), code_row_length(p), [&](int64_t begin, int64_t end) {
        kernel(p, vertical, in, bits, out, begin, end);
      });
    });
  }
};

TORCH_LIBRARY_IMPL(fastblur, CPU, m) { Operators<Cpu>::implement(m); }

}  // namespace
}  // namespace fastblur::cpu
