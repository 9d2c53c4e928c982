// The kernels of one level out of its vector types.
#pragma once

#include "backward.h"
#include "forward.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

template <class V, class T>
struct Entry {
  static void forward(const Params& p, const VerticalTaps& vertical, const T* x, T* y,
                      uint8_t* codes, int64_t begin, int64_t end) {
    Walk<V> walk(p, vertical);
    walk.stream_y = p.step() % V::kLanes == 0 &&
                    streams(y, p.units() * p.h.out(), walk.y_row, kLargeY, kVector);
    if (p.linear()) {
      blur_only(walk, x, y, begin, end);
    } else {
      with_pool(p, [&](auto pool) {
        if (codes) forward_as<V, T, pool(), true>(walk, x, y, codes, begin, end);
        else forward_as<V, T, pool(), false>(walk, x, y, codes, begin, end);
      });
    }
    if (walk.stream_y) V::fence();
  }

  static void backward(const Params& p, const VerticalTaps& vertical, const T* dy,
                       const uint8_t* codes, T* dx, int64_t begin, int64_t end) {
    Walk<V> walk(p, vertical);
    const int64_t rows = p.units() * p.h.size;
    walk.stream_dx = streams(dx, rows, walk.x_row, kLargeDx, kPiece);
    const bool stream = streams(dx, rows, walk.x_row, kLargeDx, kVector);
    with_pool(
        p, [&](auto pool) { backward_as<V, T, pool()>(walk, dy, codes, dx, begin, end, stream); });
  }

  static void apply(const Params& p, const VerticalTaps& vertical, const T* x, const uint8_t* codes,
                    T* y, int64_t begin, int64_t end) {
    const Walk<V> walk(p, vertical);
    if (p.linear()) return blur_only(walk, x, y, begin, end);
    apply_as(walk, x, codes, y, begin, end);
  }

  static constexpr Kernels<T> kernels() { return {&forward, &backward, &apply}; }

 private:
  template <class F>
  static void with_pool(const Params& p, F f) {
    with_constant(SquarePools{}, specialised_pool(p.h.pool, p.w.pool), f);
  }

  // Larger than what a core has for itself. Forward reads x, four times as large as y as a rule:
  // where all cores' cache may hold both, the next layer finds y there.
  static constexpr int64_t kLargeDx = 2 << 20, kLargeY = 4 << 20;

  static constexpr int64_t kVector = V::kLanes * sizeof(T);

  // Whether rows of a result go past the caches: if they are large, and made of so many bytes.
  static bool streams(const T* out, int64_t rows, int64_t row, int64_t large, int64_t bytes) {
    const int64_t row_bytes = row * int64_t(sizeof(T));
    return rows * row_bytes >= large && row_bytes % bytes == 0 &&
           reinterpret_cast<uintptr_t>(out) % uintptr_t(bytes) == 0;
  }
};

template <class F32, class F64>
constexpr Level make_level(const char* name, bool (*supported)()) {
  return {name,
          supported,
          Entry<F32, float>::kernels(),
          Entry<F64, double>::kernels(),
          Entry<F32, Half>::kernels(),
          Entry<F32, BFloat16>::kernels()};
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
