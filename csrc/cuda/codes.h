// Where the CUDA backend keeps the codes: the one description of their two layouts.
//
// codes is [N, code_words_per_image], int32. Two families of kernels share it, each with a layout
// of its own; which of them runs a call follows from geometry and dtype alone (specialisation.h),
// so that forward, backward and apply always agree.
//
// Tiles, of the specialised kernels (pool K x K). A tile is 2 rows by 4 columns of one channel, and
// its code one unsigned integer, a TileCode. Tiles of an image lie as [C, tile rows, tile columns]
// in the contiguous format and as [tile rows, tile columns, C] in channels_last. The two winners
// are kept apart, as they were chosen:
//   - the column's, of each element of S_h x: row r of a tile row holds it for row r - P + K - 1 of
//     x, the newest one that row r of m needs. So rows of tiles begin K - 1 - P before row 0 of m;
//   - the row's, of each element of m.
// Both are one of K candidates in K - 1 bits: 0; 1: the later one; or for K = 3, 0, 1, 2. Row 3, or
// where K < 3 one more bit, means that ReLU held the element at zero.
//
// Planes, of the generic kernels. Elements of m are numbered in memory order within their image, 32
// to a group. A group has one 32-bit word for each of code_bits() bits of the winner's index:
// column bits first, then row bits, low bits first. Bit e % 32 of word (e / 32) * code_bits() + b
// is bit b of element e.
#pragma once

#include <cstdint>
#include <type_traits>

#include "params.h"

namespace fastblur::cuda {

constexpr int kTileRows = 2, kTileColumns = 4;

// The bits of a tile's code for pool K.
template <int K, bool kRelu>
struct TileBits {
  static constexpr int kEach = K - 1;  // bits of one winner
  static constexpr int kRow = kTileColumns * kEach;
  static constexpr int kRowWinners = 2 * kRow;  // where the winners of rows begin
  static constexpr int kNobody = 4 * kRow;      // and the bits for "nobody", if K < 3
  static constexpr bool kNobodyApart = kRelu && K < 3;

  // First bit of the winner of element (row, column) of a tile, within its half.
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

// Tile rows. With F taps the pairs of rows of m that a kernel handles together begin at even rows
// for F < 4 and at odd ones from there on: step i of a sweep ends output row i with the rows
// first_row(i) and first_row(i) + 1, and fills tile row i + tile_shift.
struct TileRows {
  int pool, pad, taps;

  FASTBLUR_HD constexpr int before() const { return (taps - 1) / 2; }
  FASTBLUR_HD constexpr int64_t first_row(int64_t step) const {
    return 2 * step - before() + taps - 2;
  }
  FASTBLUR_HD constexpr int ahead() const { return pool - 1 - pad; }  // rows of tiles before row 0
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

// Whole 16-byte vectors, so that the codes of every image are aligned.
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
