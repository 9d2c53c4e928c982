// A target: the kernels compiled for one instruction set, as pointers to functions. It has a
// Kernels for each element type.
#pragma once

#include <cstdint>

#include "cpu/simd/float16.h"
#include "cpu/stages/vertical_taps.h"
#include "params.h"

namespace fastblur::cpu {

// Each kernel processes rows [begin, end), counted over all planes: row u of plane n has the number
// n * rows_per_plane + u. forward and apply count rows of m, and compute the share of the rows of y
// that goes with them; backward counts rows of dx. The cuts between the ranges never change a
// result. forward and backward return whether they run fused, in one pass; fuses_forward and
// fuses_backward say so beforehand.
template <class T>
struct Kernels {
  // Keeps no codes if `codes` is null.
  bool (*forward)(const Params&, const VerticalTaps&, const T* x, T* y, uint8_t* codes,
                  int64_t begin, int64_t end);
  bool (*backward)(const Params&, const VerticalTaps&, const T* dy, const uint8_t* codes, T* dx,
                   int64_t begin, int64_t end);
  void (*apply)(const Params&, const VerticalTaps&, const T* x, const uint8_t* codes, T* y,
                int64_t begin, int64_t end);
  bool (*fuses_forward)(const Params&, const VerticalTaps&);
  bool (*fuses_backward)(const Params&);
};

struct Target {
  const char* name;
  bool (*supported)();
  Kernels<float> f32;
  Kernels<double> f64;
  Kernels<Half> f16;
  Kernels<BFloat16> bf16;

  const Kernels<float>& kernels(const float*) const { return f32; }
  const Kernels<double>& kernels(const double*) const { return f64; }
  const Kernels<Half>& kernels(const Half*) const { return f16; }
  const Kernels<BFloat16>& kernels(const BFloat16*) const { return bf16; }
};

}  // namespace fastblur::cpu
