// A target: the kernels compiled for one instruction set.
#pragma once

#include <cstdint>

#include "cpu/simd/float16.h"
#include "cpu/stages/vertical_taps.h"
#include "params.h"

namespace fastblur::cpu {

// Each kernel does the rows [begin, end) of all planes' rows in a line: row u of plane n is
// n * rows_per_plane + u. forward and apply count rows of m, and do the share of rows of y that
// goes with them; backward counts rows of dx. How the rows are cut never changes a result. forward
// and backward return whether they run in one pass, as fuses_forward and fuses_backward foretell.
template <class T>
struct Kernels {
  // codes may be null: then none are kept.
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
