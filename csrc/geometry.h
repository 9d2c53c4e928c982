// Sizes, border rules and code widths of a call, as plain arithmetic for host and device.
//
// fastblur/_geometry/geometry.py defines the same in Python. tests/kernels/test_geometry.py
// compares the two with each other, and with the shapes that the reference produces.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTBLUR_HD __host__ __device__
#else
#define FASTBLUR_HD
#endif

namespace fastblur {

constexpr int kMaxPool = 15;  // 15 rows and the state "no winner" fit in 4 bits
constexpr int kMaxTaps = 31;

// The order is that of PADDING_MODES in fastblur/_geometry/checks.py.
enum class Border : int { reflect, replicate, zeros, circular };

// One axis of  x --max, stride 1--> m --pad--> --correlate, stride s--> y.
struct Axis {
  int64_t size;    // size of x
  int64_t pad;     // padding of the max, at each end
  int64_t stride;  // stride of the blur
  int64_t before;  // blur padding at the low end
  int64_t after;   // blur padding at the high end
  int pool;        // size of the window
  int n_taps;

  FASTBLUR_HD int64_t pooled() const { return size + 2 * pad - pool + 1; }
  FASTBLUR_HD int64_t padded() const { return pooled() + before + after; }
  FASTBLUR_HD int64_t out() const {
    return padded() < n_taps ? 0 : (padded() - n_taps) / stride + 1;
  }
  // Candidate c of window u is x[u - pad + c]. Candidates [first_candidate, end_candidate) exist.
  // The others are padding of the max, which never wins, not even against -inf.
  FASTBLUR_HD int first_candidate(int64_t u) const { return u < pad ? int(pad - u) : 0; }
  FASTBLUR_HD int end_candidate(int64_t u) const {
    return size + pad - u < pool ? int(size + pad - u) : pool;
  }
};

// Returns the element of m whose value stands at position q of the padded axis, or -1 if the
// padding is zero there. Element 0 of m is at q = 0; q < 0 and q >= size are padding. An index
// folds back at most once: reflect must pad less than `size`, circular at most `size`.
FASTBLUR_HD inline int64_t border_source(int64_t q, int64_t size, Border border) {
  if (q >= 0 && q < size) return q;
  switch (border) {
    case Border::reflect: return q < 0 ? -q : 2 * (size - 1) - q;
    case Border::replicate: return q < 0 ? 0 : size - 1;
    case Border::circular: return q < 0 ? q + size : q - size;
    default: return -1;
  }
}

// The inverse of border_source: calls f with each padding position that is a copy of element u.
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

// The number of bits that distinguish `states` states.
FASTBLUR_HD constexpr int bits_for(int states) {
  int bits = 0;
  while ((1 << bits) < states) ++bits;
  return bits;
}

// A code is the winner of one element of m: its column in [0, pool_w) and its row in [0, pool_h).
// With ReLU, row pool_h means that there is no winner, because ReLU made the element zero.
FASTBLUR_HD constexpr int column_bits(int pool_w) { return bits_for(pool_w); }
FASTBLUR_HD constexpr int row_bits(int pool_h, bool relu) {
  return bits_for(pool_h + (relu ? 1 : 0));
}

}  // namespace fastblur
