// The layout of the CPU's codes.
//
// codes is [N, code_bytes_per_image] of uint8. It has, from the outside to the inside:
//   - one plane after the other (see Params::planes);
//   - the code_bits() bit planes of a plane: those of the winner's column, lowest bit first, then
//     those of its row, lowest bit first;
//   - the rows of m, each in whole bytes;
//   - the elements of a row: element i is bit i % 8 of byte i / 8.
//
// A row is as long as a row of x, or as a row of m if that is longer. So x, m and codes share one
// index along a row. The bits after the end of a shorter row of m have no meaning, but depend on x
// alone. The bits after the end of the row, in its last byte, are zero.
//
// No two rows share a byte, so threads may have any rows.
#pragma once

#include "cpu/codes/bits.h"
#include "params.h"

namespace fastblur::cpu {

inline int64_t code_row_length(const Params& p) {
  return (p.w.size > p.w.pooled() ? p.w.size : p.w.pooled()) * p.pixel_stride();
}

inline int64_t code_row_bytes(const Params& p) { return (code_row_length(p) + 7) / 8; }

// The byte at which a row of a bit plane of a plane begins.
inline int64_t code_row_start(const Params& p, int64_t plane, int bitplane, int64_t row) {
  return ((plane * p.code_bits() + bitplane) * p.h.pooled() + row) * code_row_bytes(p);
}

inline int64_t code_bytes_per_image(const Params& p) {
  return code_row_start(p, p.planes_per_image(), 0, 0);
}

}  // namespace fastblur::cpu
