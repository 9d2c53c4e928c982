// S_h' S_v' B_h' B_v' for contiguous maps: rows of dy in, rows of dx out.
//
// A row of dm is made in one go and kept with the columns of its padding. Column i of m, in dm and
// in the strings of winners alike, stands at kLead - pad + i: candidate c of it is then c columns
// further on in x, and dx sums the candidates' vectors, each moved by c lanes.
#pragma once

#include "walk.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

template <class V, class T, int K, int F>  // window of the max, K x K; taps along a row
class FusedRowsBack {
 public:
  using S = typename V::Scalar;

  static bool serves(const Params& p) {
    return p.step() == 1 && p.w.stride == 2 && p.w.before <= kLead - p.w.pad;
  }

  // For bands of `band` rows of dx.
  FusedRowsBack(const Walk<V>& walk, const T* dy, const uint8_t* codes, int64_t band)
      : walk_(walk),
        dy_(dy),
        codes_(codes),
        end_of_codes_(codes + walk.p.batch * code_bytes_per_image(walk.p)),
        columns_(walk.p.w.out()),
        padded_(walk.p.w.before + walk.m_row + walk.p.w.after),
        ahead_(band * walk.p.h.out() / most(1, walk.p.h.size) * walk.y_row),
        pitch_(kLead + most(round(padded_, 2 * V::kLanes), round(walk.x_row, V::kLanes)) + kLead),
        dm_(1, (band + K) * pitch_, 0),
        planes_(walk.code_bits, (band + K) * pitch_),
        won_(K * K, (band + K) * pitch_),
        everywhere_(1, (band + K) * pitch_) {
    std::memset(everywhere_[0], 0xff, size_t((band + K) * pitch_ / 8));
  }

  // Rows [x0, x1) of a unit's dx.
  template <bool kStream>
  void make(int64_t unit, int64_t x0, int64_t x1, T* dx) {
    const Params& p = walk_.p;
    // The rows of m whose windows reach these, and of them those that exist.
    const int64_t first = most(0, x0 + p.h.pad - K + 1);
    const int64_t last = least(p.h.pooled(), x1 + p.h.pad);
    const T* const dy = dy_ + unit * p.h.out() * walk_.y_row;
    make_rows_of_dm(dy, first, last);
    std::memset((void*)(dm_[0] + (last - first) * pitch_), 0, sizeof(S) * size_t(pitch_));
    if (!p.linear()) read_winners(unit, first, last);
    for (int64_t x = x0; x < x1; ++x) {
      const S* dm[K];
      const uint8_t* won[K];
      for (int r = 0; r < K; ++r) {
        const int64_t u = x + p.h.pad - r;
        const int64_t at = (u >= first && u < last ? u - first : last - first) * pitch_;
        dm[r] = dm_[0] + at;
        won[r] = won_[r * K] + at / 8;
      }
      T* const row = dx + (unit * p.h.size + x) * walk_.x_row;
      if (p.linear()) copy_row<V, kStream>(dm[0] + kLead, walk_.x_row, row);
      else route_row<kStream>(dm, won, row);
    }
  }

 private:
  static constexpr int64_t kLead = 16;  // whole vectors at every level
  static int64_t round(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

  // B_h' B_v', for stride 2 along a row: column 2 t of the padded row has the even taps of dv[t],
  // dv[t - 1] ..., column 2 t + 1 the odd ones. Rows [first, last) of dm.
  void make_rows_of_dm(const T* dy, int64_t first, int64_t last) {
    V taps[F];
    for (int b = 0; b < F; ++b) taps[b] = V::splat(walk_.taps_w[b]);
    S* m = dm_[0] + kLead - walk_.p.w.pad;  // column 0
    for (int64_t u = first; u < last; ++u, m += pitch_) {
      const VerticalTaps::List targets = walk_.vertical.targets(u);
      with_constant(Sizes<1, 2>{}, int(targets.size()), [&](auto known) {
        make_row_of_dm<known()>(targets, dy, taps, m - walk_.p.w.before);
      });
      for (const auto& [to, from] : walk_.borders) {
        if (from >= 0) m[from] += m[to];
        m[to] = 0;
      }
    }
  }

  // N = number of targets, or 0.
  template <int N>
  void make_row_of_dm(VerticalTaps::List targets, const T* dy, const V* taps, S* padded) {
    constexpr int L = V::kLanes;
    const auto* const target = targets.begin();
    const int n = N ? N : int(targets.size());
    V own_weight[N ? N : 1];  // as in sum_n_rows
    const T* own_row[N ? N : 1];
    const auto row = [&](int k) { return dy + target[k].row * walk_.y_row; };
    const auto weight = [&](int k) { return V::splat(S(target[k].weight)); };
    for (int k = 0; k < N; ++k) own_weight[k] = weight(k), own_row[k] = row(k);
    const T* const ahead = (n ? row(0) : dy) + ahead_;
    V before = V::splat(0);
    const auto at = [&](int64_t t, auto load) {
      V dv = V::splat(0), even = dv, odd = dv;
      __builtin_prefetch(ahead + t);
#pragma GCC unroll 2
      for (int k = 0; k < n; ++k)
        dv = N ? V::fma(own_weight[k], load(own_row[k] + t), dv)
               : V::fma(weight(k), load(row(k) + t), dv);
      const V moved[3] = {dv, V::template join<1>(before, dv), V::template join<2>(before, dv)};
#pragma GCC unroll 8
      for (int b = 0; b < F; ++b) {
        V& sum = b % 2 ? odd : even;
        sum = V::fma(taps[b], moved[b / 2], sum);
      }
      V low, high;
      V::interleave(even, odd, low, high);
      low.store(padded + 2 * t);
      high.store(padded + 2 * t + L);
      before = dv;
    };
    int64_t t = 0;
    for (; t + L <= columns_; t += L) at(t, [](const T* y) { return V::load(y); });
    for (; 2 * t < padded_; t += L) {
      const auto rest = lanes_between<V>(0, columns_ - t);
      at(t, [rest](const T* y) { return V::load_where(y, rest); });
    }
  }

  // The strings of the winners of rows [first, last) of m.
  void read_winners(int64_t unit, int64_t first, int64_t last) {
    const Params& p = walk_.p;
    const int64_t rows = last - first, from_bytes = code_row_bytes(p), to_bytes = pitch_ / 8;
    const int64_t words = (kLead + walk_.pitch + 63) / 64, lead = kLead - p.w.pad;
    for (int b = 0; b < walk_.code_bits; ++b) {
      const uint8_t* from = codes_ + code_row_start(p, unit, b, first);
      const uint8_t* const next = from + rows * from_bytes;
      for (int64_t i = 0; i < rows * from_bytes; i += 64) __builtin_prefetch(next + i);
      // What a row takes from its neighbours stands where dm is zero.
      uint8_t* to = planes_[b];
      const auto move_row = [&](auto get) __attribute__((always_inline)) {
        uint64_t before = 0;
        for (int64_t w = 0; w < words; ++w) {
          const uint64_t word = get(from + 8 * w);
          put_word(to, w, word << lead | before);
          before = word >> (64 - lead);
        }
      };
      for (int64_t r = 0; r < rows; ++r, from += from_bytes, to += to_bytes) {
        if (end_of_codes_ - from >= 8 * words)
          move_row([](const uint8_t* at) { return get_word(at, 0); });
        else move_row([&](const uint8_t* at) { return get_word_until(at, end_of_codes_); });
      }
    }
    with_truth(p.relu, [&](auto relu) {
      find_winners<K, relu()>(
          p, [&](int) { return everywhere_[0]; }, planes_, (last - first) * pitch_, won_);
    });
  }

  // S_h' S_v': dm[r] is the row of dm that has this one as its row r, won[r] its string of
  // candidate 0, from where those of the others are in reach without pointers of their own.
  template <bool kStream>
  void route_row(const S** dm, const uint8_t** won, T* dx) {
    constexpr int L = V::kLanes;
    const int64_t string = won_.stride(), n = walk_.x_row;
    V given[K];  // by the rows of one vector of windows, to any of their candidates
    const auto gather = [&](int c) {  // what candidates c get
      V sum = V::blend(V::mask_at(won[0] + c * string), given[0], V::splat(0));
#pragma GCC unroll 3
      for (int r = 1; r < K; ++r)
        sum = V::add_where(V::mask_at(won[r] + c * string), sum, given[r]);
      return sum;
    };
    const auto go_to = [&](int64_t elements) {
#pragma GCC unroll 3
      for (int r = 0; r < K; ++r) {
        dm[r] += elements, won[r] += elements / 8;
        given[r] = V::held(V::load(dm[r]));
      }
    };
    V before[K];
    go_to(kLead - L);
    for (int c = 1; c < K; ++c) before[c] = gather(c);
    for (int64_t i = 0; i < n; i += L) {
      go_to(L);
      if (!kStream) prefetch(dx + i + kAhead);
      V sum = gather(0);
      if constexpr (K > 1) {
        const V here = gather(1);
        sum = V::add(sum, V::template join<1>(before[1], here));
        before[1] = here;
      }
      if constexpr (K > 2) {
        const V here = gather(2);
        sum = V::add(sum, V::template join<2>(before[2], here));
        before[2] = here;
      }
      if (i + L > n) sum.store_first(dx + i, int(n - i));
      else if (kStream) sum.stream(dx + i);
      else sum.store(dx + i);
    }
  }

  const Walk<V>& walk_;
  const T* dy_;
  const uint8_t *codes_, *end_of_codes_;
  int64_t columns_;  // of dy
  int64_t padded_;   // length of a row of m with its padding
  int64_t ahead_;    // elements of dy to the rows of the next band
  int64_t pitch_;    // of dm and the strings
  Scratch<S> dm_;
  Bits planes_, won_, everywhere_;
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
