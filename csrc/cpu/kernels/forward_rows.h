// The sources of rows for the forward sweep, and how it is cut into bands and tiles (ForwardCut).
//
// ChosenRows serves forward and chooses the winners. FusedRows (forward_fused.h) computes rows of
// B_v m for it in one pass, StagedRows rows of m stage by stage. GivenRows serves apply: it
// computes rows of m from the winners that the codes name.
#pragma once

#include "cpu/kernels/forward_fused.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// How the forward sweep is cut into bands and tiles.
struct ForwardCut {
  int64_t band;  // rows of y in a band
  int64_t rows;  // the most rows of m that a band reads
  int64_t tile;  // elements of a row in a tile: also the pitch of rows of m in scratch

  // fused: for FusedRows. Its carry makes bands of few rows cost no more.
  ForwardCut(const Params& p, bool fused) {
    const int64_t row = code_row_length(p);
    const bool cut = row > kLongRow;
    band = !cut    ? rows_of_band(kBandOfX, row * p.h.stride)
           : fused ? kRowsOfFusedTiles
                   : kRowsOfTiles;
    band = max(1, min(band, p.h.out()));
    rows = min(p.h.stride * (band - 1) + p.h.n_taps + p.h.before + p.h.after, p.h.pooled());
    if (p.border == Border::circular) rows = p.h.pooled();  // the first band reads the last rows
    tile = cut ? kTile : row;
  }
};

// Computes rows of m, one stage after the other; see select.h.
template <class V, class T, int K, bool kCodes>
class StagedRows {
 public:
  using S = typename V::Scalar;

  StagedRows(const Sweep<V>& sweep, const T* x, uint8_t* codes, const ForwardCut& cut)
      : sweep_(sweep),
        x_(x),
        codes_(codes),
        m_(1, cut.rows * cut.tile, 0),
        edges_(sweep.p, cut.tile == sweep.pitch ? cut.rows + sweep.p.h.pool : 1),
        packed_(1, sweep.same_rows ? 0 : (cut.rows + sweep.p.h.pool) * sweep.pitch, 0),
        best_(1, (cut.rows + sweep.p.h.pool) * cut.tile, 0),
        won_columns_(kCodes ? sweep.p.w.pool : 0, (cut.rows + sweep.p.h.pool) * cut.tile),
        won_rows_(kCodes ? sweep.p.h.pool + 1 : 0, cut.rows * cut.tile),
        bitplanes_(kCodes ? sweep.code_bits : 0, cut.rows * cut.tile) {}

  // Computes rows [tile.first, tile.last) of m, and writes the codes of rows [own_first, own_last).
  const S* make(const Tile& tile, int64_t own_first, int64_t own_last) {
    const Axis& h = sweep_.p.h;
    first_row_ = max(0, tile.first - h.pad);
    const int64_t last_row = min(h.size, tile.last - h.pad + h.pool - 1);
    V nonfinite = V::set1(0);
    max_of_columns<false>(tile, last_row, nonfinite);
    const bool has_nonfinite =
        V::to_bits(V::beats(nonfinite, nonfinite)) != 0;  // a NaN: some value is not finite
    if (has_nonfinite) max_of_columns<true>(tile, last_row, nonfinite);
    // Rows whose windows have all their rows are processed together, other rows one by one.
    for (int64_t u = tile.first; u < tile.last;) {
      int64_t next = u + 1;
      if (all_rows(u))
        while (next < tile.last && all_rows(next)) ++next;
      with_relu<K>(sweep_.p.relu, [&](auto relu) {
        with_truth(has_nonfinite, [&](auto has_nonfinite) {
          max_of_rows<relu(), has_nonfinite()>(tile, u, next, own_first, own_last);
        });
      });
      u = next;
    }
    return m_[0];
  }

 private:
  bool all_rows(int64_t u) const {
    const Axis& h = sweep_.p.h;
    return h.first_candidate(u) == 0 && h.end_candidate(u) == h.pool;
  }

  // S_h: rows [first_row_, last_row) of x to best_, with the pitch of the tile.
  template <bool kNonfinite>
  void max_of_columns(const Tile& tile, int64_t last_row, V& nonfinite) {
    const T* const plane = x_ + tile.plane * sweep_.p.h.size * sweep_.x_row;
    const int64_t rows = last_row - first_row_;
    if (sweep_.same_rows) {
      const int64_t start = first_row_ * sweep_.pitch, end = sweep_.p.h.size * sweep_.pitch;
      return max_of_runs<kNonfinite>(tile, rows, plane + start, start, end - start, nonfinite);
    }
    // Rows of m are longer than rows of x, so x is first copied to rows of that length.
    for (int64_t r = 0; r < rows; ++r)
      copy_row<V>(plane + (first_row_ + r) * sweep_.x_row, sweep_.x_row,
                  packed_[0] + r * sweep_.pitch);
    const S* const packed = packed_[0];
    max_of_runs<kNonfinite>(tile, rows, packed, 0, rows * sweep_.pitch, nonfinite);
  }

  // x points to `rows` rows. `before` elements before x may be read, and `all` from x on.
  template <bool kNonfinite, class E>
  void max_of_runs(const Tile& tile, int64_t rows, const E* x, int64_t before, int64_t all,
                   V& nonfinite) {
    const bool whole = tile.n == sweep_.pitch;
    const int64_t runs = whole ? 1 : rows, n = whole ? rows * sweep_.pitch : tile.n;
    for (int64_t r = 0; r < runs; ++r) {
      const int64_t start = r * sweep_.pitch + tile.at;
      const Run<E> run = {x + start, n, before + start, all - start - n};
      select_columns<V, K, kCodes, kNonfinite>(sweep_.p, edges_, tile.at, run,
                                               best_[0] + r * tile.pitch, won_columns_,
                                               r * tile.pitch, nonfinite);
    }
  }

  // S_v: rows [first, last) of m. All their windows have candidates in the same n_rows rows.
  template <bool kRelu, bool kNonfinite>
  void max_of_rows(const Tile& tile, int64_t first, int64_t last, int64_t own_first,
                   int64_t own_last) {
    const Axis& h = sweep_.p.h;
    const int begin = h.first_candidate(first), n_rows = h.end_candidate(first) - begin;
    const int64_t pitch = tile.pitch, top = first - h.pad + begin - first_row_;
    const auto select = [&](auto known) {
      select_rows<V, known(), kCodes, kRelu, kNonfinite>(
          best_[0] + top * pitch, pitch, n_rows, (last - first) * pitch,
          m_[0] + (first - tile.first) * pitch, won_rows_);
    };
    // Compile-time constants are all rows of the window and, for a border, all but one.
    with_constant(KnownSizes<K, (K > 1 ? K - 1 : K)>{}, n_rows, select);

    own_first = max(own_first, first), own_last = min(own_last, last);
    if (!kCodes || own_first >= own_last) return;
    BitReader rows[kMaxPool + 1] = {}, columns[kMaxPool][kMaxPool];
    for (int r = 1; r < n_rows + kRelu; ++r) rows[r] = {won_rows_[r], (own_first - first) * pitch};
    for (int r = 0; r < n_rows; ++r)
      for (int c = 1; c < sweep_.p.w.pool; ++c)
        columns[r][c] = {won_columns_[c], (top + own_first - first + r) * pitch};
    const int64_t n = (own_last - own_first) * pitch;
    if (n_rows == K) name_winners<K, kRelu>(sweep_.p, columns, rows, begin, n_rows, n, bitplanes_);
    else name_winners<0, kRelu>(sweep_.p, columns, rows, begin, n_rows, n, bitplanes_);
    put_codes(sweep_, tile, pitch, own_first, own_last, bitplanes_, 0, codes_);
  }

  const Sweep<V>& sweep_;
  const T* x_;
  uint8_t* codes_;
  Scratch<S> m_;
  int64_t first_row_ = 0;
  Edges<V> edges_;
  Scratch<S> packed_, best_;
  Bits won_columns_, won_rows_, bitplanes_;
};

// The source for forward: chooses the winners. If FusedRows serves the call, StagedRows is only for
// bands with NaN or infinities, and has no scratch until the first of them.
template <class V, class T, int K, bool kCodes>
class ChosenRows {
 public:
  using S = typename V::Scalar;
  static constexpr bool kFuses = K > 0 && Fusable<V>;

  ChosenRows(const Sweep<V>& sweep, const VerticalWeights<S>& windows, const T* x, uint8_t* codes,
             const ForwardCut& cut)
      : sweep_(sweep), x_(x), codes_(codes), cut_(cut) {
    if constexpr (kFuses)
      if (windows.all()) fused_.emplace(sweep, windows, x, codes, cut.band, cut.tile);
  }

  // Whether FusedRows can compute B_v m in one pass.
  static bool fuses(const VerticalWeights<S>& windows) { return kFuses && windows.all(); }
  int64_t end_of_rows(int64_t i) const { return fused_ ? fused_->end_of_rows(i) : 0; }
  // Computes rows [i0, i1) of B_v m in one pass, or returns false: then make() has to do it.
  bool sum_rows_of(const Tile& tile, int64_t i0, int64_t i1, int64_t own_first, int64_t own_last,
                   Scratch<S>& out) {
    if constexpr (!kFuses) return false;
    else return fused_ && fused_->make(tile, i0, i1, own_first, own_last, out);
  }

  const S* make(const Tile& tile, int64_t own_first, int64_t own_last) {
    if (!staged_) staged_.emplace(sweep_, x_, codes_, cut_);
    return staged_->make(tile, own_first, own_last);
  }

 private:
  const Sweep<V>& sweep_;
  const T* x_;
  uint8_t* codes_;
  const ForwardCut& cut_;
  std::optional<FusedRows<V, T, K ? K : 1, kCodes>> fused_;
  std::optional<StagedRows<V, T, K, kCodes>> staged_;
};

// The source for apply: the codes give the winners.
template <class V, class T>
class GivenRows {
 public:
  using S = typename V::Scalar;

  GivenRows(const Sweep<V>& sweep, const T* x, const uint8_t* codes, const ForwardCut& cut)
      : sweep_(sweep),
        x_(x),
        codes_(codes),
        m_(1, cut.rows * cut.tile, 0),
        edges_(sweep.p, 1),
        bitplanes_(sweep.code_bits, cut.tile),
        won_(sweep.p.h.pool * sweep.p.w.pool, cut.tile) {}

  bool sum_rows_of(const Tile&, int64_t, int64_t, int64_t, int64_t, Scratch<S>&) { return false; }
  int64_t end_of_rows(int64_t) const { return 0; }

  const S* make(const Tile& tile, int64_t, int64_t) {
    with_truth(sweep_.p.relu, [&](auto relu) {
      for (int64_t u = tile.first; u < tile.last; ++u)
        make_row<relu()>(tile, u, m_[0] + (u - tile.first) * tile.pitch);
    });
    return m_[0];
  }

 private:
  template <bool kRelu>
  void make_row(const Tile& tile, int64_t u, S* m) {
    constexpr int L = V::kLanes;
    const Params& p = sweep_.p;
    const int64_t pixel_stride = p.pixel_stride();
    for (int b = 0; b < sweep_.code_bits; ++b)
      std::memcpy(bitplanes_[b], codes_ + code_row_start(p, tile.plane, b, u) + tile.at / 8,
                  size_t(tile.n + 7) / 8);
    find_winners<0, kRelu>(
        p, [&](int c) { return edges_.exists(c, tile.at); }, bitplanes_, tile.n, won_);
    const T* const plane = x_ + tile.plane * p.h.size * sweep_.x_row;
    const int begin = p.h.first_candidate(u), end = p.h.end_candidate(u);
    for (int64_t i = 0; i < tile.n; i += L) {
      V taken = V::set1(0);
      for (int r = begin; r < end; ++r) {
        for (int c = 0; c < p.w.pool; ++c) {
          // Nothing beside the row is read, whatever the codes say.
          const int64_t from = tile.at + i + (c - p.w.pad) * pixel_stride;
          const typename V::LaneBits won = get_lanes<V>(won_[r * p.w.pool + c], i) &
                                           lanes_between<V>(-from, sweep_.x_row - from);
          if (!won) continue;
          const T* const row = plane + (u - p.h.pad + r) * sweep_.x_row;
          taken = V::if_then_else(V::to_mask(won), V::load_masked(row + from, won), taken);
        }
      }
      taken.store(m + i);
    }
  }

  const Sweep<V>& sweep_;
  const T* x_;
  const uint8_t* codes_;
  Scratch<S> m_;
  Edges<V> edges_;
  Bits bitplanes_, won_;
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
