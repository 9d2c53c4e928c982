// Where the CPU keeps the codes: the one description of their layout.
//
// codes is [N, code_bytes_per_image], uint8: plane after plane (see Params::planes), of each plane
// its code_bits() bitplanes, column bitplanes first, then row bitplanes, and of each the low bit of
// the winner's index first; of a bitplane the rows of m, in whole bytes. Element i of a row is bit
// i % 8 of its byte i / 8. A row is as long as one of x, or of m if that is longer, so that x, m
// and codes share one index along it. The bits behind a shorter row of m mean nothing, but are a
// function of x alone; those behind the row in its last byte are zero.
//
// No byte is shared by two rows, so that threads may have any rows.
#pragma once

#include "cpu/codes/bits.h"
#include "params.h"

namespace fastblur::cpu {

inline int64_t code_row_length(const Params& p) {
  return (p.w.size > p.w.pooled() ? p.w.size : p.w.pooled()) * p.pixel_stride();
}

inline int64_t code_row_bytes(const Params& p) { return (code_row_length(p) + 7) / 8; }

// The byte where row `row` of a bitplane of a plane begins.
inline int64_t code_row_start(const Params& p, int64_t plane, int bitplane, int64_t row) {
  return ((plane * p.code_bits() + bitplane) * p.h.pooled() + row) * code_row_bytes(p);
}

inline int64_t code_bytes_per_image(const Params& p) {
  return code_row_start(p, p.planes_per_image(), 0, 0);
}

}  // namespace fastblur::cpu
