// Where the CPU keeps the codes: the one description of their layout.
//
// codes is [N, code_bytes_per_image], uint8: unit after unit (see Params::units), of each unit its
// code_bits() planes, column planes first, then row planes, and of each the low bit of the winner's
// index first; of a plane the rows of m, in whole bytes. Element i of a row is bit i % 8 of its
// byte i / 8. A row is as long as one of x, or of m if that is longer, so that x, m and codes share
// one index along it. The bits behind a shorter row of m mean nothing, but are a function of x
// alone; those behind the row in its last byte are zero.
//
// No byte is shared by two rows, so that threads may have any rows.
#pragma once

#include "../max_blur_pool.h"
#include "bits.h"

namespace fastblur::cpu {

inline int64_t code_row_length(const Params& p) {
  return (p.w.size > p.w.pooled() ? p.w.size : p.w.pooled()) * p.step();
}

inline int64_t code_row_bytes(const Params& p) { return (code_row_length(p) + 7) / 8; }

// The byte where row `row` of a plane of a unit begins.
inline int64_t code_row_start(const Params& p, int64_t unit, int plane, int64_t row) {
  return ((unit * p.code_bits() + plane) * p.h.pooled() + row) * code_row_bytes(p);
}

inline int64_t code_bytes_per_image(const Params& p) {
  return code_row_start(p, p.units_per_image(), 0, 0);
}

}  // namespace fastblur::cpu
