// dx = S_h' S_v' B_h' B_v' dy: backward, where ' is the transpose.
//
// backward_as runs a fused kernel if one serves the call, otherwise backward_staged, which
// processes a band of dx at a time. GradientRows computes rows of dm, the gradient of m, and
// Winners decodes the codes. In route_back, each element of dx gathers from the windows that it
// could have won. No two rows add into the same memory. So there are no atomics, and the result is
// the same for any number of threads.
#pragma once

#include "cpu/kernels/backward_fused_nchw.h"
#include "cpu/kernels/backward_fused_nhwc.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

constexpr int64_t kRouteElements = 1024;  // elements of dx routed at a time: a multiple of 64

// Computes rows [first, last) of dm. Element i of row u is at (u - first) * pitch + i. Rows that do
// not exist are zero, and so are the elements after the end of a row that is shorter than the
// pitch.
template <class V, class T>
class GradientRows {
 public:
  using S = typename V::Scalar;

  GradientRows(const Sweep<V>& sweep, const T* dy, int64_t rows, int64_t margin)
      : sweep_(sweep),
        dy_(dy),
        folds_(folds_of(sweep.p.w, sweep.p.border, sweep.taps_w)),
        dv_(rows, sweep.y_row, sweep.p.w.n_taps * sweep.p.pixel_stride()),
        dm_(1, rows * sweep.pitch, margin),
        outputs_(1, sweep.vertical.max_outputs(), 0),
        weights_(1, sweep.vertical.max_outputs(), 0) {}

  const S* make(int64_t plane, int64_t first, int64_t last) {
    const Params& p = sweep_.p;
    const auto exists = [&](int64_t u) { return u >= 0 && u < p.h.pooled(); };
    const T* const dy = dy_ + plane * p.h.out() * sweep_.y_row;
    for (int64_t u = max(first, 0); u < min(last, p.h.pooled()); ++u) {
      int n = 0;
      for (const auto& tap : sweep_.vertical.outputs(u)) {
        outputs_[0][n] = dy + tap.row * sweep_.y_row;
        weights_[0][n++] = S(tap.weight);
      }
      sum_rows<V>(outputs_[0], weights_[0], n, sweep_.y_row, dv_[u - first]);
    }
    // In ascending order, so that the next row overwrites what a row stores behind its end.
    for (int64_t u = first; u <= last; ++u) {
      S* const row = dm_[0] + (u - first) * sweep_.pitch;
      if (u == last) {
        std::memset((void*)row, 0, sizeof(S) * size_t(2 * V::kLanes));
      } else if (exists(u)) {
        blur_columns_transposed<V>(p, sweep_.taps_w, dv_[u - first], row);
        fold_columns<V>(folds_, p.pixel_stride(), dv_[u - first], row);
        for (int64_t i = sweep_.m_row; i < sweep_.pitch; ++i) row[i] = 0;
      } else {
        std::memset((void*)row, 0, sizeof(S) * size_t(sweep_.pitch));
      }
    }
    return dm_[0];
  }

 private:
  const Sweep<V>& sweep_;
  const T* dy_;
  std::vector<Fold<S>> folds_;
  Scratch<S> dv_, dm_;
  Scratch<const T*> outputs_;
  Scratch<S> weights_;
};

// The winners for some elements of dx. Bit i of the string at row[r] + c * stride says whether
// element i won as candidate (r, c) of a window.
struct Won {
  const uint8_t* row[kMaxPool];
  int64_t stride;
};

// S_h' S_v': dx[i] = sum of dm[r][i + (pad - c) * pixel_stride] over all (r, c) such that element i
// won as candidate (r, c).
template <class V, int K, bool kStream, class T>
void route_back(const Params& p, const typename V::Scalar* const* dm, const Won& won, int64_t n,
                T* dx) {
  constexpr int L = V::kLanes;
  const int pool_h = K ? K : p.h.pool, pool_w = K ? K : p.w.pool;
  const int64_t pixel_stride = p.pixel_stride(), stride = won.stride;
  // Pointers for c = 0 only: there are too few registers for all candidates.
  const typename V::Scalar* row[K ? K : kMaxPool];
  const uint8_t* winner[K ? K : kMaxPool];
  for (int r = 0; r < pool_h; ++r) row[r] = dm[r] + p.w.pad * pixel_stride, winner[r] = won.row[r];
  for (int64_t i = 0; i < n; i += L) {
    V sum = V::set1(0);
    if (!kStream) prefetch(dx + i + kPrefetchAhead);
#pragma GCC unroll 3
    for (int r = 0; r < pool_h; ++r) {
      V of_row = V::set1(0);  // one sum per row, so that no row waits for another
#pragma GCC unroll 3
      for (int c = 0; c < pool_w; ++c)
        of_row = V::add_where(V::mask_at(winner[r] + c * stride), of_row,
                              V::load(row[r] - c * pixel_stride));
      row[r] += L, winner[r] += L / 8;
      sum = V::add(sum, of_row);
    }
    if (i + L > n) sum.store_n(dx + i, int(n - i));
    else if (kStream) sum.stream(dx + i);
    else sum.store(dx + i);
  }
}

// The winners of a band, as route_back needs them: read() decodes the codes of rows of m, of()
// moves the bits to the elements of dx.
template <class V, int K>
class Winners {
 public:
  Winners(const Sweep<V>& sweep, const uint8_t* codes, int64_t rows)
      : sweep_(sweep),
        codes_(codes),
        end_of_codes_(codes + sweep.p.batch * code_bytes_per_image(sweep.p)),
        margin_((sweep.p.h.pool * sweep.pitch + sweep.p.w.pool * sweep.p.pixel_stride() + 128) /
                64 * 64),
        edges_(sweep.p, rows),
        bitplanes_(sweep.code_bits, rows * sweep.pitch),
        won_(n(), rows * sweep.pitch, margin_),
        moved_(n(), kRouteElements) {}

  // Decodes the codes of rows [first, last) of m, which exist.
  void read(int64_t plane, int64_t first, int64_t last) {
    first_ = first;
    const int64_t bits = (last - first) * sweep_.pitch;
    for (int b = 0; b < sweep_.code_bits; ++b)
      join_rows(bitplanes_[b], codes_ + code_row_start(sweep_.p, plane, b, first), end_of_codes_,
                last - first, sweep_.pitch);
    with_relu<K>(sweep_.p.relu, [&](auto relu) {
      find_winners<K, relu()>(
          sweep_.p, [&](int c) { return edges_.exists(c, 0); }, bitplanes_, bits, won_);
    });
  }

  // The winners for n elements of dx, from element `at` of the plane on. The bits of windows that
  // do not exist have no meaning; dm is zero there.
  Won of(int64_t at, int64_t n) {
    const Params& p = sweep_.p;
    const int64_t words = (n + 63) / 64;
    Won won;
    for (int r = 0; r < p.h.pool; ++r) {
      const int64_t first = at + (p.h.pad - r - first_) * sweep_.pitch + p.w.pad * p.pixel_stride();
      if (p.pixel_stride() % 8 == 0) {  // all distances are whole bytes: nothing is moved
        won.row[r] = won_[r * p.w.pool] + first / 8;
        won.stride = won_.stride() - p.pixel_stride() / 8;
        continue;
      }
      won.row[r] = moved_[r * p.w.pool];
      won.stride = moved_.stride();
      for (int c = 0; c < p.w.pool; ++c) {
        const BitReader from(won_[r * p.w.pool + c], first - c * p.pixel_stride());
        uint8_t* const to = moved_[r * p.w.pool + c];
#pragma GCC ivdep
        for (int64_t w = 0; w < words; ++w) put_word(to, w, from[w]);
      }
    }
    return won;
  }

 private:
  int64_t n() const { return sweep_.p.h.pool * sweep_.p.w.pool; }
  const Sweep<V>& sweep_;
  const uint8_t *codes_, *end_of_codes_;
  int64_t margin_, first_ = 0;
  Edges<V> edges_;
  Bits bitplanes_, won_, moved_;
};

template <class V, class T, int K>
void backward_staged(const Sweep<V>& sweep, const T* dy, const uint8_t* codes, T* dx, int64_t begin,
                     int64_t end, bool stream) {
  using S = typename V::Scalar;
  const Params& p = sweep.p;
  const Axis& h = p.h;
  const int64_t band = min(max(rows_of_band(kBandOfDm, sweep.pitch), kRowsOfDm), h.size);
  const int64_t rows = band + h.pool - 1;
  GradientRows<V, T> gradient(sweep, dy, rows, p.w.pool * p.pixel_stride());
  Winners<V, K> winners(sweep, codes, rows);
  Scratch<S> packed(1, sweep.same_rows ? 0 : band * sweep.pitch, 0);

  for_each_plane(h.size, begin, end, [&](int64_t plane, int64_t h0, int64_t h1) {
    T* const out = dx + plane * h.size * sweep.x_row;
    for (int64_t x0 = h0, x1; x0 < h1; x0 = x1) {
      x1 = min(h1, x0 + band);
      const int64_t first = x0 + h.pad - h.pool + 1, last = x1 + h.pad;
      const S* const dm = gradient.make(plane, first, last);
      if (p.linear()) {
        with_truth(stream, [&](auto stream) {
          for (int64_t x = x0; x < x1; ++x)
            copy_row<V, stream()>(dm + (x - x0) * sweep.pitch, sweep.x_row, out + x * sweep.x_row);
        });
        continue;
      }
      winners.read(plane, max(first, 0), min(last, h.pooled()));
      const int64_t n = (x1 - x0) * sweep.pitch;
      for (int64_t at = 0; at < n; at += kRouteElements) {
        const int64_t part = min(kRouteElements, n - at);
        const S* row[kMaxPool];
        for (int r = 0; r < h.pool; ++r) row[r] = dm + (h.pool - 1 - r) * sweep.pitch + at;
        const Won won = winners.of(x0 * sweep.pitch + at, part);
        T* const to = out + x0 * sweep.x_row + at;
        if (!sweep.same_rows) route_back<V, K, false>(p, row, won, part, packed[0] + at);
        else if (stream) route_back<V, K, true>(p, row, won, part, to);
        else route_back<V, K, false>(p, row, won, part, to);
      }
      if (sweep.same_rows) continue;
      for (int64_t x = x0; x < x1; ++x)
        copy_row<V>(packed[0] + (x - x0) * sweep.pitch, sweep.x_row, out + x * sweep.x_row);
    }
  });
}

enum class BackwardKernel { staged, nchw, nhwc };

template <class V>
BackwardKernel backward_kernel(const Params& p) {
  const bool known = specialised_pool(p.h.pool, p.w.pool) && TapCounts::known(p.w.n_taps);
  if (!Fusable<V> || !known) return BackwardKernel::staged;
  return fuses_nhwc<V>(p) ? BackwardKernel::nhwc
         : fuses_nchw(p)  ? BackwardKernel::nchw
                          : BackwardKernel::staged;
}

// Returns whether dx is computed in one pass. With `stream`, rows of dx bypass the caches in whole
// vectors.
template <class V, class T, int K>
bool backward_as(const Sweep<V>& sweep, const T* dy, const uint8_t* codes, T* dx, int64_t begin,
                 int64_t end, bool stream) {
  const BackwardKernel kernel = backward_kernel<V>(sweep.p);
  const auto run = [&](auto fused) {
    for_each_plane(sweep.p.h.size, begin, end,
                   [&](int64_t plane, int64_t h0, int64_t h1) { fused.make(plane, h0, h1, dx); });
    return true;
  };
  bool done = false;
  if constexpr (Fusable<V> && K > 0)
    with_constant(TapCounts{}, sweep.p.w.n_taps, [&](auto taps) {
      if constexpr (taps() > 0) {
        if (kernel == BackwardKernel::nhwc)
          done = run(FusedPixelsBack<V, T, K, taps()>(sweep, dy, codes, stream));
        if (kernel == BackwardKernel::nchw)
          done = run(FusedRowsBack<V, T, K, taps()>(sweep, dy, codes));
      }
    });
  if (!done) backward_staged<V, T, K>(sweep, dy, codes, dx, begin, end, stream);
  if (stream || sweep.stream_dx) V::fence();
  return done;
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
