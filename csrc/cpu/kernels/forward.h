// y = B_h B_v S_v S_h x: the forward sweep, and that of apply, whose winners are given.
//
// A band at a time, and if need be a tile of columns at a time, a source gives either rows of B_v m
// at once or rows of m, which are then summed; B_h goes over the band.
#pragma once

#include "cpu/kernels/forward_fused.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// How the forward sweep is cut.
struct ForwardCut {
  int64_t band;  // rows of y at a time
  int64_t rows;  // of m, at most, for these
  int64_t tile;  // columns at a time, and the pitch of the rows of m in scratch

  // fused: as FusedRows, whose bands are not dearer for being low.
  ForwardCut(const Params& p, bool fused) {
    const int64_t row = code_row_length(p);
    const bool cut = row > kLongRow;
    band = !cut    ? rows_of_band(kBandOfX, row * p.h.stride)
           : fused ? kRowsOfFusedTiles
                   : kRowsOfTiles;
    band = max(1, min(band, p.h.out()));
    rows = min(p.h.stride * (band - 1) + p.h.n_taps + p.h.before + p.h.after, p.h.pooled());
    if (p.border == Border::circular) rows = p.h.pooled();  // a band at the top needs the last
    tile = cut ? kTile : row;
  }
};

// Rows of m, one stage after the other; see select.h.
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

  // Rows [tile.first, tile.last) of m, and the codes of rows [own_first, own_last).
  const S* make(const Tile& tile, int64_t own_first, int64_t own_last) {
    const Axis& h = sweep_.p.h;
    first_row_ = max(0, tile.first - h.pad);
    const int64_t last_row = min(h.size, tile.last - h.pad + h.pool - 1);
    V nonfinite = V::set1(0);
    max_of_columns<false>(tile, last_row, nonfinite);
    const bool has_nonfinite =
        V::to_bits(V::beats(nonfinite, nonfinite)) != 0;  // then something is not finite
    if (has_nonfinite) max_of_columns<true>(tile, last_row, nonfinite);
    // All rows that have the same candidates, at once.
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

  // Rows [first_row_, last_row) of x into best_, which keeps the tile's pitch.
  template <bool kNonfinite>
  void max_of_columns(const Tile& tile, int64_t last_row, V& nonfinite) {
    const T* const plane = x_ + tile.plane * sweep_.p.h.size * sweep_.x_row;
    const int64_t rows = last_row - first_row_;
    if (sweep_.same_rows) {
      const int64_t start = first_row_ * sweep_.pitch, end = sweep_.p.h.size * sweep_.pitch;
      return max_of_runs<kNonfinite>(tile, rows, plane + start, start, end - start, nonfinite);
    }
    // Rows of m are longer than those of x: x goes to rows of that length first.
    for (int64_t r = 0; r < rows; ++r)
      copy_row<V>(plane + (first_row_ + r) * sweep_.x_row, sweep_.x_row,
                  packed_[0] + r * sweep_.pitch);
    const S* const packed = packed_[0];
    max_of_runs<kNonfinite>(tile, rows, packed, 0, rows * sweep_.pitch, nonfinite);
  }

  // x: `rows` rows, with `before` elements before them and `all` from there on.
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

  // Rows [first, last) of m, whose winners are in rows [begin, begin + n_rows) of their windows.
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
    // All rows of the window, or at a border all but one, or as many as there are.
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

// Winners chosen here: max, and ReLU. Where FusedRows serves, the stages are for NaN and infinities
// alone, and have no scratch until then.
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

  // Whether B_v m can be made at once; see FusedRows.
  static bool fuses(const VerticalWeights<S>& windows) { return kFuses && windows.all(); }
  int64_t end_of_rows(int64_t i) const { return fused_ ? fused_->end_of_rows(i) : 0; }
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

// Winners given by codes.
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
          // Whatever the codes say: nothing beside the row is read.
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

// B_v: a row of y from rows of m, row u being at m + u * pitch.
template <class V>
void sum_sources(VerticalTaps::List sources, const typename V::Scalar* m, int64_t pitch, int64_t n,
                 typename V::Scalar* discard, typename V::Scalar* out) {
  using S = typename V::Scalar;
  const S *row[kMaxTaps], *own_row[kMaxTaps];
  S weight[kMaxTaps], own_weight[kMaxTaps];
  int n_rows = 0, n_own = 0;
  for (const auto& tap : sources) {
    const S* const from = m + tap.row * pitch;
    row[n_rows] = from, weight[n_rows++] = S(tap.weight);
    if (n_own == 0 || own_row[n_own - 1] != from) own_row[n_own] = from, own_weight[n_own++] = 0;
    own_weight[n_own - 1] += S(tap.weight);
  }
  // A row that the padding repeats counts once, with all its weight, as in FusedRows: to the bit.
  sum_rows<V>(own_row, own_weight, n_own, n, out);
  if (n_own == n_rows) return;
  // But infinities of two signs, which a sum of weights cannot tell, are NaN.
  sum_rows<V>(row, weight, n_rows, n, discard);
  for (int64_t i = 0; i < n; i += V::kLanes) {
    const V each = V::load(discard + i), nonfinite = V::fma(each, V::set1(0), V::set1(0));
    V::if_then_else(V::beats(nonfinite, nonfinite), each, V::load(out + i)).store(out + i);
  }
}

// Rows [begin, end) of m, and the rows of y that go with them; see Kernels.
template <class V, class Source, class T>
void blur_made_rows(const Sweep<V>& sweep, const ForwardCut& cut, Source& source, bool keeps_codes,
                    T* y, int64_t begin, int64_t end) {
  using S = typename V::Scalar;
  const Params& p = sweep.p;
  const Axis& h = p.h;
  Scratch<S> discard(1, cut.tile, 0);
  auto blurred = sweep.padded_rows(cut.band);
  // The rows of m that rows [i0, i1) of y are made of. Small maps ask for all, again and again.
  struct {
    int64_t i0 = -1, i1 = -1, first = 0, last = 0;
  } reach;
  const auto find_reach = [&](int64_t i0, int64_t i1) {
    if (reach.i0 == i0 && reach.i1 == i1) return;
    reach = {i0, i1, h.pooled(), 0};
    for (int64_t i = i0; i < i1; ++i) {
      const auto sources = sweep.vertical.sources(i);
      if (sources.size() == 0) continue;
      reach.first = min(reach.first, sources.begin()->row);
      reach.last = max(reach.last, sources.end()[-1].row + 1);
    }
    reach.last = max(reach.first, reach.last);
  };
  const auto for_each_tile = [&](int64_t plane, int64_t first, int64_t last, auto f) {
    for (int64_t at = 0; at < sweep.pitch; at += cut.tile)
      f(Tile{plane, first, last, at, min(cut.tile, sweep.pitch - at), cut.tile});
  };

  for_each_plane(h.pooled(), begin, end, [&](int64_t plane, int64_t u0, int64_t u1) {
    T* const out = y + plane * h.out() * sweep.y_row;
    int64_t pending = keeps_codes ? u0 : u1;  // the first row whose codes are not written yet
    const auto flush = [&](int64_t until) {
      for (int64_t next; pending < until; pending = next) {
        next = min(until, pending + cut.rows);
        for_each_tile(plane, pending, next, [&](const Tile& t) { source.make(t, pending, next); });
      }
    };
    const int64_t i1 = share_of_y(p, u1);
    for (int64_t i0 = share_of_y(p, u0), i; i0 < i1; i0 = i) {
      i = min(i1, i0 + cut.band);
      find_reach(i0, i);
      const int64_t first = reach.first, last = reach.last;
      flush(min(first, u1));
      int64_t flushed = min(max(last, source.end_of_rows(i)), u1);
      bool summed = true;  // all of it, or none: a tile can leave what it shares to the next
      for_each_tile(plane, first, last, [&](const Tile& tile) {
        summed = summed && source.sum_rows_of(tile, i0, i, pending, flushed, blurred);
      });
      if (!summed) {
        flushed = min(last, u1);
        for_each_tile(plane, first, last, [&](const Tile& tile) {
          const S* const m = source.make(tile, pending, flushed) - first * cut.tile;
          const int64_t n = min(tile.n, sweep.m_row - tile.at);
          for (int64_t j = i0; j < i; ++j)
            sum_sources<V>(sweep.vertical.sources(j), m, cut.tile, n, discard[0],
                           blurred[j - i0] + tile.at);
        });
      }
      if (flushed > pending) pending = flushed;
      sweep.blur_rows(blurred, i0, i, out);
    }
    flush(u1);
  });
}

// Returns whether B_v m is made in one pass; see FusedRows.
template <class V, class T, int K, bool kCodes>
bool forward_as(const Sweep<V>& sweep, const T* x, T* y, uint8_t* codes, int64_t begin,
                int64_t end) {
  using Rows = ChosenRows<V, T, K, kCodes>;
  const VerticalWeights<typename V::Scalar> windows(sweep.p, sweep.vertical);
  const ForwardCut cut(sweep.p, Rows::fuses(windows));
  Rows source(sweep, windows, x, codes, cut);
  blur_made_rows(sweep, cut, source, kCodes, y, begin, end);
  return Rows::fuses(windows);
}

template <class V, class T>
void apply_as(const Sweep<V>& sweep, const T* x, const uint8_t* codes, T* y, int64_t begin,
              int64_t end) {
  const ForwardCut cut(sweep.p, false);
  GivenRows<V, T> source(sweep, x, codes, cut);
  blur_made_rows(sweep, cut, source, false, y, begin, end);
}

// Neither max nor ReLU: x itself is m.
template <class V, class T>
void blur_only(const Sweep<V>& sweep, const T* x, T* y, int64_t begin, int64_t end) {
  const Params& p = sweep.p;
  const Axis& h = p.h;
  const int64_t band = rows_of_band(kBandOfX, sweep.x_row);
  const Scratch<T> zeros(1, sweep.x_row, 0);
  auto blurred = sweep.padded_rows(band);
  for_each_plane(h.pooled(), begin, end, [&](int64_t plane, int64_t u0, int64_t u1) {
    const T* const in = x + plane * h.size * sweep.x_row;
    T* const out = y + plane * h.out() * sweep.y_row;
    const int64_t i1 = share_of_y(p, u1);
    for (int64_t i0 = share_of_y(p, u0), i; i0 < i1; i0 = i) {
      i = min(i1, i0 + band);
      for (int64_t j = i0; j < i; ++j) {
        const T* row[kMaxTaps];
        for (int a = 0; a < h.n_taps; ++a) {
          const int64_t u = border_source(h.stride * j + a - h.before, h.size, p.border);
          row[a] = u < 0 ? zeros[0] : in + u * sweep.x_row;
        }
        sum_rows<V>(row, sweep.taps_h, h.n_taps, sweep.m_row, blurred[j - i0], kPrefetchAhead);
      }
      sweep.blur_rows(blurred, i0, i, out);
    }
  });
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
