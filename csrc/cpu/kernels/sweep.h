// What the sweeps of forward.h and backward.h share: the sizes of a call (Sweep), how it is cut
// into bands and tiles, and put_codes, which writes the codes of a tile.
//
// The rows of a kernel's call are cut into bands. A band has as many rows as keep everything that
// passes between the stages in the nearest cache; a small map is one band. Rows too long for that
// are also cut into tiles of columns.
#pragma once

#include "cpu/stages/blur.h"
#include "cpu/stages/select.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

constexpr int64_t kBandOfX = 4096;   // elements of a band of forward
constexpr int64_t kBandOfDm = 2048;  // elements of a band of backward, which keeps more for each
constexpr int64_t kLongRow = 1024;   // elements; a longer row is cut into tiles
constexpr int64_t kTile = 512;       // elements of a row in a tile: a multiple of 64
constexpr int64_t kRowsOfTiles = 7;  // rows of y in a band that is cut into tiles
// The same for FusedRows. The number is low, so that x is read in order. Besides, the six rows of x
// of such a band are often a multiple of 4096 bytes apart, and have to share the eight ways of the
// nearest cache with other rows.
constexpr int64_t kRowsOfFusedTiles = 3;
constexpr int64_t kRowsOfDm = 6;  // rows in a band of backward, at least

// The sizes of one plane (see Params::planes), in elements, and what else a sweep needs.
template <class V>
struct Sweep {
  using S = typename V::Scalar;

  const Params& p;
  const VerticalTaps& vertical;
  int64_t x_row, m_row, y_row;
  int64_t pitch;   // pitch of m and its codes
  bool same_rows;  // whether the rows of x have this pitch too
  int code_bits;
  bool stream_y = false;   // y bypasses the caches, in whole vectors
  bool stream_dx = false;  // dx bypasses the caches, in whole pieces; see kPiece
  S taps_h[kMaxTaps], taps_w[kMaxTaps];
  std::vector<Border1d> borders;  // the padding of a row of m

  Sweep(const Params& p, const VerticalTaps& vertical)
      : p(p),
        vertical(vertical),
        x_row(p.w.size * p.pixel_stride()),
        m_row(p.w.pooled() * p.pixel_stride()),
        y_row(p.w.out() * p.pixel_stride()),
        pitch(code_row_length(p)),
        same_rows(x_row == pitch),
        code_bits(p.code_bits()),
        borders(borders_of(p.w, p.border)) {
    for (int a = 0; a < p.h.n_taps; ++a) taps_h[a] = S(p.taps_h[a]);
    for (int b = 0; b < p.w.n_taps; ++b) taps_w[b] = S(p.taps_w[b]);
  }

  // B_h: computes rows [i0, i1) of y of a plane from as many rows of B_v m.
  template <class T>
  void blur_rows(Scratch<S>& m, int64_t i0, int64_t i1, T* plane) const {
    pad_columns(borders, p.pixel_stride(), m[0], m.stride(), i1 - i0);
    blur_columns<V>(p, taps_w, m[0], m.stride(), i1 - i0, plane + i0 * y_row, stream_y);
  }

  // Scratch for rows of B_v m, with margins for their padding. Each has the length of a row of x if
  // that is longer: FusedRows then writes beyond the end of a row of m, and the padding overwrites
  // that.
  Scratch<S> padded_rows(int64_t rows) const {
    return {rows, pitch, (p.w.before > p.w.after ? p.w.before : p.w.after) * p.pixel_stride()};
  }
};

// Rows [first, last) of m, and elements [at, at + n) of each. In scratch, element at + i of row
// first + r is at r * pitch + i.
struct Tile {
  int64_t plane, first, last;
  int64_t at, n;  // in elements
  int64_t pitch;
};

// Calls band(plane, first, last) for the part of each plane that lies in rows [begin, end).
template <class F>
void for_each_plane(int64_t rows_per_plane, int64_t begin, int64_t end, F band) {
  for (int64_t at = begin; at < end;) {
    const int64_t plane = at / rows_per_plane, start = plane * rows_per_plane;
    const int64_t stop = start + rows_per_plane < end ? start + rows_per_plane : end;
    band(plane, at - start, stop - start);
    at = stop;
  }
}

// The number of rows of `length` elements in a band of `elements` elements, at least 1.
inline int64_t rows_of_band(int64_t elements, int64_t length) {
  return max(1, elements / max(1, length));
}

// The first row of y that goes with row u of m. Rows of y are divided in proportion to rows of m.
inline int64_t share_of_y(const Params& p, int64_t u) {
  return (u * p.h.out() + p.h.pooled() - 1) / p.h.pooled();
}

// Writes the codes of rows [first, last) of a tile. `bitplanes` has `pitch` bits per row; row
// `from` of it is row `first` of m.
template <class V>
void put_codes(const Sweep<V>& sweep, const Tile& tile, int64_t pitch, int64_t first, int64_t last,
               Bits& bitplanes, int64_t from, uint8_t* codes) {
  const Params& p = sweep.p;
  const int64_t rows = last - first, row_bytes = code_row_bytes(p);
  // All rows are written at once if they are laid out as in `codes`. If `mask` has to clear the
  // bits after each row, every word must also have whole rows.
  const bool alike = tile.n == sweep.pitch && pitch == 8 * row_bytes;
  const bool joined = alike && (pitch == tile.n || 64 % pitch == 0);
  uint64_t mask = ~uint64_t(0);
  if (joined && pitch != tile.n) {
    mask = first_bits(tile.n);
    for (int64_t n = pitch; n < 64; n *= 2) mask |= mask << n;
  }
  for (int b = 0; b < sweep.code_bits; ++b) {
    uint8_t* const to = codes + code_row_start(p, tile.plane, b, first) + tile.at / 8;
    if (tile.n == sweep.pitch)  // then the codes of the next rows are written next
      for (int64_t i = 0; i < rows * row_bytes; i += 64) prefetch(to + rows * row_bytes + i);
    if (joined) {
      put_bits(to, {bitplanes[b], from * pitch}, rows * pitch, mask);
      continue;
    }
    int64_t r = 0;
    if (tile.n == sweep.pitch && 64 % pitch == 0) {
      // Writes a whole word for each row; the next row overwrites what is too much.
      for (; (rows - r) * row_bytes >= 8; ++r) {
        const int64_t bit = (from + r) * pitch;
        const uint64_t row = get_word(bitplanes[b], bit >> 6) >> (bit & 63);
        put_word(to + r * row_bytes, 0, row & first_bits(tile.n));
      }
    }
    for (; r < rows; ++r) put_bits(to + r * row_bytes, {bitplanes[b], (from + r) * pitch}, tile.n);
  }
}

// Copies a row of n elements from any type to any other.
template <class V, bool kStream = false, class From, class To>
void copy_row(const From* row, int64_t n, To* out) {
  constexpr int L = V::kLanes;
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    if (kStream) V::load(row + i).stream(out + i);
    else V::load(row + i).store(out + i);
  }
  if (i < n) V::load_masked(row + i, lanes_between<V>(0, n - i)).store_n(out + i, int(n - i));
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
