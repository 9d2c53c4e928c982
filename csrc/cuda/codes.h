// The two layouts in which the CUDA backend stores the codes. This is their only description.
//
// The codes are an int32 tensor [N, code_words_per_image]. The specialised kernels store tiles, the
// generic kernels store bit planes. Geometry and dtype alone determine which kernels run a call
// (specialisation.h), so forward, backward and apply always agree on the layout.
//
// Tiles (specialised kernels, pool K x K, padding P of the max). A tile is 2 rows x 4 columns of m
// in one channel. Its code is one unsigned integer, a TileCode. The tiles of an image are stored as
// [C, tile rows, tile columns] in the contiguous format and as [tile rows, tile columns, C] in
// channels_last. A TileCode stores column winners and row winners in separate fields, as S_h and
// S_v choose them:
//   - A column winner belongs to an element of S_h x. The fields of row r of m hold the column
//     winners of row r - P + K - 1 of x, the newest row of x that row r of m needs. Row 0 of x
//     therefore belongs to row -(K - 1 - P) of m, and the tile rows begin at this row or one row
//     before it.
//   - A row winner belongs to an element of m.
// A winner is the index of one of K candidates, in K - 1 bits: none for K = 1, 0 or 1 for K = 2,
// and 0, 1 or 2 for K = 3. With ReLU an element may have no winner ("nobody"), because ReLU made it
// zero. Row winner 3 says so for K = 3, and one more bit per element for K < 3.
//
// Bit planes (generic kernels). The elements of m of an image are numbered in memory order and
// divided into groups of 32. A group has one 32-bit word for each of the code_bits() bits of a
// code: first the bits of the column, then the bits of the row, low bits first. Bit e % 32 of word
// (e / 32) * code_bits() + b is bit b of the code of element e.
#pragma once

#include <cstdint>
#include <type_traits>

#include "params.h"

namespace fastblur::cuda {

constexpr int kTileRows = 2, kTileColumns = 4;

// Positions of bits in a TileCode for pool K: first the column winners, then the row winners, then
// one nobody bit per element if K < 3.
template <int K, bool kRelu>
struct TileBits {
  static constexpr int kEach = K - 1;                // bits of one winner
  static constexpr int kRow = kTileColumns * kEach;  // bits of one row of winners
  static constexpr int kRowWinners = 2 * kRow;       // first bit of the row winners
  static constexpr int kNobody = 4 * kRow;           // first nobody bit, if K < 3
  static constexpr bool kNobodyApart = kRelu && K < 3;

  // First bit of the winner of element (row, column) of a tile, counted from the first column
  // winner or from kRowWinners.
  static constexpr int at(int row, int column) { return row * kRow + column * kEach; }
};

constexpr int tile_code_bytes(int pool, bool relu) {
  const int bits = 16 * (pool - 1) + (relu && pool < 3 ? 8 : 0);
  return bits > 16 ? 4 : bits > 8 ? 2 : bits > 0 ? 1 : 0;
}

template <int K, bool kRelu>
using TileCode =
    std::conditional_t<tile_code_bytes(K, kRelu) == 4, uint32_t,
                       std::conditional_t<tile_code_bytes(K, kRelu) == 2, uint16_t, uint8_t>>;

// The tile rows of a map. A step of a sweep processes two rows of m. Step i completes row i of y
// with rows first_row(i) and first_row(i) + 1 of m, and fills tile row i + tile_shift().
// first_row(i) is even for 2 and 3 taps, and odd for 4 and 5.
struct TileRows {
  int pool, pad, taps;

  FASTBLUR_HD constexpr int before() const { return (taps - 1) / 2; }
  FASTBLUR_HD constexpr int64_t first_row(int64_t step) const {
    return 2 * step - before() + taps - 2;
  }
  // Rows before row 0 of m that have column winners.
  FASTBLUR_HD constexpr int ahead() const { return pool - 1 - pad; }
  FASTBLUR_HD constexpr int tile_shift() const {
    return taps >= 4 ? (ahead() > 1 ? 2 : 1) : (ahead() + 1) / 2;
  }
  FASTBLUR_HD constexpr int64_t count(int64_t m_rows) const {
    return (m_rows - 1 - first_row(-tile_shift())) / 2 + 1;
  }
};

FASTBLUR_HD constexpr int64_t tile_columns(int64_t m_columns) {
  return (m_columns + kTileColumns - 1) / kTileColumns;
}

// The number of words in `bytes` bytes, rounded up to whole 16-byte vectors. The codes of every
// image are therefore aligned.
FASTBLUR_HD constexpr int64_t in_words(int64_t bytes) { return (bytes + 15) / 16 * 4; }

FASTBLUR_HD inline int64_t tile_words_per_image(const Params& p) {
  const TileRows rows{p.h.pool, int(p.h.pad), p.h.n_taps};
  return in_words(p.channels * rows.count(p.h.pooled()) * tile_columns(p.w.pooled()) *
                  tile_code_bytes(p.h.pool, p.relu));
}

FASTBLUR_HD inline int64_t m_per_image(const Params& p) {
  return p.channels * p.h.pooled() * p.w.pooled();
}

FASTBLUR_HD inline int64_t plane_words_per_image(const Params& p) {
  return in_words((m_per_image(p) + 31) / 32 * p.code_bits() * 4);
}

}  // namespace fastblur::cuda
