// dx = S_h' S_v' B_h' B_v' dy: the backward walk.
//
// Rows of dm, the gradient of m, are made a band at a time, and every element of dx gathers from
// the windows that it could have won. Nothing is added into memory that another row also adds to:
// no atomics, and the same result for any number of threads.
#pragma once

#include "fused_backward_channels_last.h"
#include "fused_backward_contiguous.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

constexpr int64_t kRouteElements = 1024;  // of dx at a time: a multiple of 64

// Rows [first, last) of dm, those that do not exist being zero: element i of row u is at
// (u - first) * pitch + i. What stands behind the end of a shorter row is zero too.
template <class V, class T>
class GradientRows {
 public:
  using S = typename V::Scalar;

  GradientRows(const Walk<V>& walk, const T* dy, int64_t rows, int64_t margin)
      : walk_(walk),
        dy_(dy),
        folds_(folds_of(walk.p.w, walk.p.border, walk.taps_w)),
        dv_(rows, walk.y_row, walk.p.w.n_taps * walk.p.step()),
        dm_(1, rows * walk.pitch, margin),
        targets_(1, walk.vertical.most_targets(), 0),
        weights_(1, walk.vertical.most_targets(), 0) {}

  const S* make(int64_t unit, int64_t first, int64_t last) {
    const Params& p = walk_.p;
    const auto exists = [&](int64_t u) { return u >= 0 && u < p.h.pooled(); };
    const T* const dy = dy_ + unit * p.h.out() * walk_.y_row;
    for (int64_t u = most(first, 0); u < least(last, p.h.pooled()); ++u) {
      int n = 0;
      for (const auto& tap : walk_.vertical.targets(u)) {
        targets_[0][n] = dy + tap.row * walk_.y_row;
        weights_[0][n++] = S(tap.weight);
      }
      sum_rows<V>(targets_[0], weights_[0], n, walk_.y_row, dv_[u - first]);
    }
    // Ascending, so that what a row stores behind its end is written over by the next.
    for (int64_t u = first; u <= last; ++u) {
      S* const row = dm_[0] + (u - first) * walk_.pitch;
      if (u == last) {
        std::memset((void*)row, 0, sizeof(S) * size_t(2 * V::kLanes));
      } else if (exists(u)) {
        blur_columns_transposed<V>(p, walk_.taps_w, dv_[u - first], row);
        fold_columns<V>(folds_, p.step(), dv_[u - first], row);
        for (int64_t i = walk_.m_row; i < walk_.pitch; ++i) row[i] = 0;
      } else {
        std::memset((void*)row, 0, sizeof(S) * size_t(walk_.pitch));
      }
    }
    return dm_[0];
  }

 private:
  const Walk<V>& walk_;
  const T* dy_;
  std::vector<Fold<S>> folds_;
  Scratch<S> dv_, dm_;
  Scratch<const T*> targets_;
  Scratch<S> weights_;
};

// Where n elements of dx find their winners: string c of row r of the windows, at
// won[r] + c * stride, says in its bit i whether element i won as candidate (r, c).
struct Won {
  const uint8_t* row[kMaxPool];
  int64_t stride;
};

// S_h' S_v': dx[i] = sum over the (r, c) that it won as of dm[r][i + (pad - c) * step].
template <class V, int K, bool kStream, class T>
void route_back(const Params& p, const typename V::Scalar* const* dm, const Won& won, int64_t n,
                T* dx) {
  constexpr int L = V::kLanes;
  const int pool_h = K ? K : p.h.pool, pool_w = K ? K : p.w.pool;
  const int64_t step = p.step(), stride = won.stride;
  // Pointers to candidates 0 alone: there are too few registers for more.
  const typename V::Scalar* row[K ? K : kMaxPool];
  const uint8_t* winner[K ? K : kMaxPool];
  for (int r = 0; r < pool_h; ++r) row[r] = dm[r] + p.w.pad * step, winner[r] = won.row[r];
  for (int64_t i = 0; i < n; i += L) {
    V sum = V::splat(0);
    if (!kStream) prefetch(dx + i + kAhead);
#pragma GCC unroll 3
    for (int r = 0; r < pool_h; ++r) {
      V of_row = V::splat(0);  // of its own: the sums of the rows need not wait for one another
#pragma GCC unroll 3
      for (int c = 0; c < pool_w; ++c)
        of_row =
            V::add_where(V::mask_at(winner[r] + c * stride), of_row, V::load(row[r] - c * step));
      row[r] += L, winner[r] += L / 8;
      sum = V::add(sum, of_row);
    }
    if (i + L > n) sum.store_first(dx + i, int(n - i));
    else if (kStream) sum.stream(dx + i);
    else sum.store(dx + i);
  }
}

// The winners of a band of dx, as route_back needs them.
template <class V, int K>
class Winners {
 public:
  Winners(const Walk<V>& walk, const uint8_t* codes, int64_t rows)
      : walk_(walk),
        codes_(codes),
        end_of_codes_(codes + walk.p.batch * code_bytes_per_image(walk.p)),
        margin_((walk.p.h.pool * walk.pitch + walk.p.w.pool * walk.p.step() + 128) / 64 * 64),
        edges_(walk.p, rows),
        planes_(walk.code_bits, rows * walk.pitch),
        won_(n(), rows * walk.pitch, margin_),
        moved_(n(), kRouteElements) {}

  // Of rows [first, last) of m, which exist.
  void read(int64_t unit, int64_t first, int64_t last) {
    first_ = first;
    const int64_t bits = (last - first) * walk_.pitch;
    for (int b = 0; b < walk_.code_bits; ++b)
      join_rows(planes_[b], codes_ + code_row_start(walk_.p, unit, b, first), end_of_codes_,
                last - first, walk_.pitch);
    with_relu<K>(walk_.p.relu, [&](auto relu) {
      find_winners<K, relu()>(
          walk_.p, [&](int c) { return edges_.exists(c, 0); }, planes_, bits, won_);
    });
  }

  // Of n elements of dx, the first being `at` of its unit. Where a window does not exist, and dm is
  // zero, they say anything.
  Won of(int64_t at, int64_t n) {
    const Params& p = walk_.p;
    const int64_t words = (n + 63) / 64;
    Won won;
    for (int r = 0; r < p.h.pool; ++r) {
      const int64_t first = at + (p.h.pad - r - first_) * walk_.pitch + p.w.pad * p.step();
      if (p.step() % 8 == 0) {  // so are all the others: whole bytes stay where they are
        won.row[r] = won_[r * p.w.pool] + first / 8;
        won.stride = won_.stride() - p.step() / 8;
        continue;
      }
      won.row[r] = moved_[r * p.w.pool];
      won.stride = moved_.stride();
      for (int c = 0; c < p.w.pool; ++c) {
        const BitReader from(won_[r * p.w.pool + c], first - c * p.step());
        uint8_t* const to = moved_[r * p.w.pool + c];
#pragma GCC ivdep
        for (int64_t w = 0; w < words; ++w) put_word(to, w, from[w]);
      }
    }
    return won;
  }

 private:
  int64_t n() const { return walk_.p.h.pool * walk_.p.w.pool; }
  const Walk<V>& walk_;
  const uint8_t *codes_, *end_of_codes_;
  int64_t margin_, first_ = 0;
  Edges<V> edges_;
  Bits planes_, won_, moved_;
};

template <class V, class T, int K>
void backward_staged(const Walk<V>& walk, const T* dy, const uint8_t* codes, T* dx, int64_t begin,
                     int64_t end, bool stream) {
  using S = typename V::Scalar;
  const Params& p = walk.p;
  const Axis& h = p.h;
  const int64_t band = least(most(rows_of_band(kBandOfDm, walk.pitch), kRowsOfDm), h.size);
  const int64_t rows = band + h.pool - 1;
  GradientRows<V, T> gradient(walk, dy, rows, p.w.pool * p.step());
  Winners<V, K> winners(walk, codes, rows);
  Scratch<S> laid(1, walk.same_rows ? 0 : band * walk.pitch, 0);

  for_each_unit(h.size, begin, end, [&](int64_t unit, int64_t h0, int64_t h1) {
    T* const out = dx + unit * h.size * walk.x_row;
    for (int64_t x0 = h0, x1; x0 < h1; x0 = x1) {
      x1 = least(h1, x0 + band);
      const int64_t first = x0 + h.pad - h.pool + 1, last = x1 + h.pad;
      const S* const dm = gradient.make(unit, first, last);
      if (p.linear()) {
        with_truth(stream, [&](auto stream) {
          for (int64_t x = x0; x < x1; ++x)
            copy_row<V, stream()>(dm + (x - x0) * walk.pitch, walk.x_row, out + x * walk.x_row);
        });
        continue;
      }
      winners.read(unit, most(first, 0), least(last, h.pooled()));
      const int64_t n = (x1 - x0) * walk.pitch;
      for (int64_t at = 0; at < n; at += kRouteElements) {
        const int64_t part = least(kRouteElements, n - at);
        const S* row[kMaxPool];
        for (int r = 0; r < h.pool; ++r) row[r] = dm + (h.pool - 1 - r) * walk.pitch + at;
        const Won won = winners.of(x0 * walk.pitch + at, part);
        T* const to = out + x0 * walk.x_row + at;
        if (!walk.same_rows) route_back<V, K, false>(p, row, won, part, laid[0] + at);
        else if (stream) route_back<V, K, true>(p, row, won, part, to);
        else route_back<V, K, false>(p, row, won, part, to);
      }
      if (walk.same_rows) continue;
      for (int64_t x = x0; x < x1; ++x)
        copy_row<V>(laid[0] + (x - x0) * walk.pitch, walk.x_row, out + x * walk.x_row);
    }
  });
}

// stream: whether rows of dx go past the caches in whole vectors.
template <class V, class T, int K>
void backward_as(const Walk<V>& walk, const T* dy, const uint8_t* codes, T* dx, int64_t begin,
                 int64_t end, bool stream) {
  const Axis& h = walk.p.h;
  with_constant(TapCounts{}, walk.p.w.n_taps, [&](auto taps) {
    if constexpr (V::kFuses && K > 0 && taps() > 0) {
      using Pixels = FusedPixelsBack<V, T, K, taps()>;
      if (Pixels::serves(walk.p)) {
        Pixels pixels(walk, dy, codes, stream);
        for_each_unit(h.size, begin, end,
                      [&](int64_t unit, int64_t h0, int64_t h1) { pixels.make(unit, h0, h1, dx); });
        return;
      }
      using Rows = FusedRowsBack<V, T, K, taps()>;
      if (Rows::serves(walk.p)) {
        Rows rows(walk, dy, codes);
        for_each_unit(h.size, begin, end,
                      [&](int64_t unit, int64_t h0, int64_t h1) { rows.make(unit, h0, h1, dx); });
        return;
      }
    }
    backward_staged<V, T, K>(walk, dy, codes, dx, begin, end, stream);
  });
  if (stream || walk.stream_dx) V::fence();
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
