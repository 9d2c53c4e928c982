// y = B_h B_v S_v S_h x: forward, which chooses the winners, and apply, for which they are given.
//
// MadeRows is the sweep. It processes a band at a time, and long rows a tile at a time. A source
// (forward_rows.h) either computes rows of B_v m at once, or rows of m, which sum_sources then sums
// to rows of B_v m. B_h blurs the rows of the whole band. blur_only is the sweep without max and
// ReLU.
#pragma once

#include "cpu/kernels/forward_rows.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// B_v: one row of B_v m from rows of m. Row u of m is at m + u * pitch. `discard` is scratch.
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
  // A row that the padding repeats is added once, with the sum of its weights. FusedRows does so
  // too, and the results are the same to the bit.
  sum_rows<V>(own_row, own_weight, n_own, n, out);
  if (n_own == n_rows) return;
  // Exception: an infinity added with weights of both signs is NaN, which the sum of the weights
  // hides. So where a row is not finite, the sum with separate weights replaces the result. Not
  // where that sum overflows: FusedRows, which serves finite rows, would not replace it.
  sum_rows<V>(row, weight, n_rows, n, discard);
  const V zero = V::set1(0);
  for (int64_t i = 0; i < n; i += V::kLanes) {
    V nonfinite = zero;  // NaN if an element of a row is not finite
    for (int k = 0; k < n_own; ++k) nonfinite = V::fma(V::load(own_row[k] + i), zero, nonfinite);
    V::if_then_else(V::beats(nonfinite, nonfinite), V::load(discard + i), V::load(out + i))
        .store(out + i);
  }
}

// The rows [first, last) of m that rows [i0, i1) of y read. The last answer is kept, because a
// sweep over small maps asks for all rows again and again.
struct Reach {
  int64_t i0 = -1, i1 = -1, first = 0, last = 0;

  void find(const VerticalTaps& vertical, int64_t from, int64_t to, int64_t rows_of_m) {
    if (i0 == from && i1 == to) return;
    *this = {from, to, rows_of_m, 0};
    for (int64_t i = i0; i < i1; ++i) {
      const auto sources = vertical.sources(i);
      if (sources.size() == 0) continue;
      first = min(first, sources.begin()->row);
      last = max(last, sources.end()[-1].row + 1);
    }
    last = max(first, last);
  }
};

// The sweep over rows [begin, end) of m and the rows of y that go with them; see Kernels.
template <class V, class Source, class T>
class MadeRows {
 public:
  MadeRows(const Sweep<V>& sweep, const ForwardCut& cut, Source& source, bool keeps_codes)
      : sweep_(sweep),
        cut_(cut),
        source_(source),
        keeps_codes_(keeps_codes),
        discard_(1, cut.tile, 0),
        blurred_(sweep.padded_rows(cut.band)) {}

  void blur(T* y, int64_t begin, int64_t end) {
    const Params& p = sweep_.p;
    for_each_plane(p.h.pooled(), begin, end, [&](int64_t plane, int64_t u0, int64_t u1) {
      plane_ = plane, pending_ = keeps_codes_ ? u0 : u1;
      const int64_t i1 = share_of_y(p, u1);
      for (int64_t i0 = share_of_y(p, u0), i; i0 < i1; i0 = i) {
        i = min(i1, i0 + cut_.band);
        sum_band(i0, i, u1);
        sweep_.blur_rows(blurred_, i0, i, y + plane * p.h.out() * sweep_.y_row);
      }
      flush(u1);
    });
  }

 private:
  using S = typename V::Scalar;

  template <class F>
  void for_each_tile(int64_t first, int64_t last, F f) const {
    for (int64_t at = 0; at < sweep_.pitch; at += cut_.tile)
      f(Tile{plane_, first, last, at, min(cut_.tile, sweep_.pitch - at), cut_.tile});
  }

  // Computes rows [i0, i1) of B_v m, and writes the codes of the rows of m up to there, but of none
  // from u1 on.
  void sum_band(int64_t i0, int64_t i1, int64_t u1) {
    reach_.find(sweep_.vertical, i0, i1, sweep_.p.h.pooled());
    const int64_t first = reach_.first, last = reach_.last;
    flush(min(first, u1));
    int64_t flushed = min(max(last, source_.end_of_rows(i1)), u1);
    bool summed = true;  // all tiles or none: a tile leaves the test of shared columns to the next
    for_each_tile(first, last, [&](const Tile& tile) {
      summed = summed && source_.sum_rows_of(tile, i0, i1, pending_, flushed, blurred_);
    });
    if (!summed) {
      flushed = min(last, u1);
      for_each_tile(first, last, [&](const Tile& tile) {
        const S* const m = source_.make(tile, pending_, flushed) - first * cut_.tile;
        const int64_t n = min(tile.n, sweep_.m_row - tile.at);
        for (int64_t i = i0; i < i1; ++i)
          sum_sources<V>(sweep_.vertical.sources(i), m, cut_.tile, n, discard_[0],
                         blurred_[i - i0] + tile.at);
      });
    }
    pending_ = max(pending_, flushed);
  }

  // Writes the codes of pending rows that no row of y reads.
  void flush(int64_t until) {
    for (int64_t next; pending_ < until; pending_ = next) {
      next = min(until, pending_ + cut_.rows);
      for_each_tile(pending_, next, [&](const Tile& t) { source_.make(t, pending_, next); });
    }
  }

  const Sweep<V>& sweep_;
  const ForwardCut& cut_;
  Source& source_;
  const bool keeps_codes_;
  Scratch<S> discard_, blurred_;
  Reach reach_;
  int64_t plane_ = 0, pending_ = 0;  // the first row whose codes are not written yet
};

// Returns whether B_v m is computed in one pass; see FusedRows.
template <class V, class T, int K, bool kCodes>
bool forward_as(const Sweep<V>& sweep, const T* x, T* y, uint8_t* codes, int64_t begin,
                int64_t end) {
  using Rows = ChosenRows<V, T, K, kCodes>;
  const VerticalWeights<typename V::Scalar> windows(sweep.p, sweep.vertical);
  const ForwardCut cut(sweep.p, Rows::fuses(windows));
  Rows source(sweep, windows, x, codes, cut);
  MadeRows<V, Rows, T>(sweep, cut, source, kCodes).blur(y, begin, end);
  return Rows::fuses(windows);
}

template <class V, class T>
void apply_as(const Sweep<V>& sweep, const T* x, const uint8_t* codes, T* y, int64_t begin,
              int64_t end) {
  const ForwardCut cut(sweep.p, false);
  using Rows = GivenRows<V, T>;
  Rows source(sweep, x, codes, cut);
  MadeRows<V, Rows, T>(sweep, cut, source, false).blur(y, begin, end);
}

// Without max and ReLU: m is x itself.
template <class V, class T>
void blur_only(const Sweep<V>& sweep, const T* x, T* y, int64_t begin, int64_t end) {
  const Params& p = sweep.p;
  const Axis& h = p.h;
  const int64_t band = min(rows_of_band(kBandOfX, sweep.x_row), h.out());
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
