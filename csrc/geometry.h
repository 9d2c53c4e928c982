// Sizes, border rules and code widths: the C++ statement of the geometry.
//
// Plain arithmetic for host and device. The Python statement is fastblur/_geometry.py;
// tests/test_geometry.py holds the two, and the shapes that the reference really produces,
// together.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTBLUR_HD __host__ __device__
#else
#define FASTBLUR_HD
#endif

namespace fastblur {

constexpr int kMaxPool = 15;  // a winner and "nobody" fit in 4 bits
constexpr int kMaxTaps = 31;

// In the order of PADDING_MODES in fastblur/_geometry.py.
enum class Border : int { reflect, replicate, zeros, circular };

// One axis of  x --max, stride 1--> m --pad--> --correlate, stride s--> y.
struct Axis {
  int64_t size;    // of x
  int64_t pad;     // of the max, both sides
  int64_t stride;  // of the blur
  int64_t before;  // blur padding at the low end
  int64_t after;   // and at the high end
  int pool;
  int n_taps;

  FASTBLUR_HD int64_t pooled() const { return size + 2 * pad - pool + 1; }
  FASTBLUR_HD int64_t padded() const { return pooled() + before + after; }
  FASTBLUR_HD int64_t out() const {
    return padded() < n_taps ? 0 : (padded() - n_taps) / stride + 1;
  }
  // Candidate c of window u is x[u - pad + c]; these bound the candidates that exist. The padding
  // of the max never wins, not even against -inf.
  FASTBLUR_HD int first_candidate(int64_t u) const { return u < pad ? int(pad - u) : 0; }
  FASTBLUR_HD int end_candidate(int64_t u) const {
    return size + pad - u < pool ? int(size + pad - u) : pool;
  }
};

// Index of m that stands at position q of the unpadded axis (q < 0 or q >= size is padding), or -1
// where the padding is zero. Valid for one fold: reflect pads less than `size`, circular at most
// it.
FASTBLUR_HD inline int64_t border_source(int64_t q, int64_t size, Border border) {
  if (q >= 0 && q < size) return q;
  switch (border) {
    case Border::reflect: return q < 0 ? -q : 2 * (size - 1) - q;
    case Border::replicate: return q < 0 ? 0 : size - 1;
    case Border::circular: return q < 0 ? q + size : q - size;
    default: return -1;
  }
}

// The inverse: calls f with each position of the padding that is a copy of element u.
template <class F>
FASTBLUR_HD inline void for_each_copy(int64_t u, int64_t size, int64_t before, int64_t after,
                                      Border border, F f) {
  switch (border) {
    case Border::reflect:
      if (u > 0 && u <= before) f(-u);
      if (u < size - 1 && size - 1 - u <= after) f(2 * (size - 1) - u);
      break;
    case Border::replicate:
      for (int64_t q = u == 0 ? -before : 0; q < 0; ++q) f(q);
      for (int64_t q = size; u == size - 1 && q < size + after; ++q) f(q);
      break;
    case Border::circular:
      if (size - u <= before) f(u - size);
      if (u < after) f(u + size);
      break;
    default: break;
  }
}

// Bits that tell `states` states apart.
FASTBLUR_HD constexpr int bits_for(int states) {
  int bits = 0;
  while ((1 << bits) < states) ++bits;
  return bits;
}

// A code names the winner of one element of m: its column among pool_w, and its row among pool_h,
// where row pool_h means that nobody won because ReLU held everything at zero.
FASTBLUR_HD constexpr int column_bits(int pool_w) { return bits_for(pool_w); }
FASTBLUR_HD constexpr int row_bits(int pool_h, bool relu) {
  return bits_for(pool_h + (relu ? 1 : 0));
}

}  // namespace fastblur
