// Makes a Target from the vector types of one instruction set. Entry has the kernels of one element
// type. It turns the window size into a compile-time constant, and decides which results bypass the
// caches.
#pragma once

#include "cpu/kernels/backward.h"
#include "cpu/kernels/forward.h"
#include "cpu/simd/vector.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

template <class V, class T>
  requires Vector<V, T>
struct Entry {
  using Scalar = typename V::Scalar;

  static bool forward(const Params& p, const VerticalTaps& vertical, const T* x, T* y,
                      uint8_t* codes, int64_t begin, int64_t end) {
    Sweep<V> sweep(p, vertical);
    sweep.stream_y = p.pixel_stride() % V::kLanes == 0 &&
                     streams(y, p.planes() * p.h.out(), sweep.y_row, kLargeY, kVector);
    bool fused = false;
    if (p.linear()) {
      blur_only(sweep, x, y, begin, end);
    } else {
      with_pool(p, [&](auto pool) {
        fused = codes ? forward_as<V, T, pool(), true>(sweep, x, y, codes, begin, end)
                      : forward_as<V, T, pool(), false>(sweep, x, y, codes, begin, end);
      });
    }
    if (sweep.stream_y) V::fence();
    return fused;
  }

  static bool fuses_forward(const Params& p, const VerticalTaps& vertical) {
    bool fuses = false;
    if (!p.linear())
      with_pool(p, [&](auto pool) {
        fuses = ChosenRows<V, T, pool(), false>::fuses(VerticalWeights<Scalar>(p, vertical));
      });
    return fuses;
  }

  static bool backward(const Params& p, const VerticalTaps& vertical, const T* dy,
                       const uint8_t* codes, T* dx, int64_t begin, int64_t end) {
    Sweep<V> sweep(p, vertical);
    const int64_t rows = p.planes() * p.h.size;
    sweep.stream_dx = streams(dx, rows, sweep.x_row, kLargeDx, kPiece);
    const bool stream = streams(dx, rows, sweep.x_row, kLargeDx, kVector);
    bool fused = false;
    with_pool(p, [&](auto pool) {
      fused = backward_as<V, T, pool()>(sweep, dy, codes, dx, begin, end, stream);
    });
    return fused;
  }

  static bool fuses_backward(const Params& p) {
    return backward_kernel<V>(p) != BackwardKernel::staged;
  }

  static void apply(const Params& p, const VerticalTaps& vertical, const T* x, const uint8_t* codes,
                    T* y, int64_t begin, int64_t end) {
    const Sweep<V> sweep(p, vertical);
    if (p.linear()) return blur_only(sweep, x, y, begin, end);
    apply_as(sweep, x, codes, y, begin, end);
  }

  static constexpr Kernels<T> kernels() {
    return {&forward, &backward, &apply, &fuses_forward, &fuses_backward};
  }

 private:
  template <class F>
  static void with_pool(const Params& p, F f) {
    with_constant(SquarePools{}, specialised_pool(p.h.pool, p.w.pool), f);
  }

  // Results of so many bytes bypass the caches: they are larger than the caches of one core. The
  // limit for y is higher. Forward also reads x, which is usually four times as large as y; if the
  // cache that all cores share may hold both, the next layer finds y there.
  static constexpr int64_t kLargeDx = 2 << 20, kLargeY = 4 << 20;

  static constexpr int64_t kVector = V::kLanes * sizeof(T);

  // Whether a result bypasses the caches: it has at least `large` bytes, and its rows are whole
  // units of `bytes` bytes, aligned to that size.
  static bool streams(const T* out, int64_t rows, int64_t row, int64_t large, int64_t bytes) {
    const int64_t row_bytes = row * int64_t(sizeof(T));
    return rows * row_bytes >= large && row_bytes % bytes == 0 &&
           reinterpret_cast<uintptr_t>(out) % uintptr_t(bytes) == 0;
  }
};

template <class F32, class F64>
constexpr Target make_target(const char* name, bool (*supported)()) {
  return {name,
          supported,
          Entry<F32, float>::kernels(),
          Entry<F64, double>::kernels(),
          Entry<F32, Half>::kernels(),
          Entry<F32, BFloat16>::kernels()};
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
