// How the kernels walk the rows: forward, backward and apply, out of the stages of rows.h.
//
// Forward goes down the rows of y. The rows of m that one needs come from a source, which keeps the
// last few, so that each row of x is read and each row of m is made once (but for the few at the
// ends of a thread's share). All that passes between the stages stays in cache: a ring of pool_h
// rows of column maxima, one of n_taps rows of m, one row of blur. Backward goes down the rows of
// dx in the same way. Nothing is added into memory that another row also adds to: no atomics, and
// the same result for any number of threads.
#pragma once

#include "rows.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

// One unit's pointers and sizes (see Params::units), with what a walk needs at hand.
struct Walk {
  const Params& p;
  const VerticalTaps& vertical;
  int64_t x_row, m_row, y_row;  // elements
  int code_bits;

  Walk(const Params& p, const VerticalTaps& vertical)
      : p(p),
        vertical(vertical),
        x_row(p.w.size * p.step()),
        m_row(p.w.pooled() * p.step()),
        y_row(p.w.out() * p.step()),
        code_bits(p.code_bits()) {}
};

template <class V>
struct Taps {
  typename V::Scalar w[kMaxTaps];
  explicit Taps(const Params& p) {
    for (int b = 0; b < p.w.n_taps; ++b) w[b] = typename V::Scalar(p.taps_w[b]);
  }
};

template <class V>
class CodeRows : public Scratch<typename V::Word> {
 public:
  CodeRows(const Walk& walk, int rows)
      : Scratch<typename V::Word>(int64_t(rows) * walk.code_bits, words(walk), 0),
        planes_(walk.code_bits) {}
  Planes<V> row(int r) { return {(*this)[int64_t(r) * planes_], this->stride()}; }

 private:
  static int64_t words(const Walk& walk) { return walk.m_row / V::kLanes + 1; }
  int planes_;
};

// Rows of m: ReLU and max of x, winners chosen here. With kCodes they are written for the rows
// [own_begin, own_end).
template <class V, class T, int K, bool kCodes>
class ChosenRows {
 public:
  using Row = typename V::Scalar;

  ChosenRows(const Walk& walk, const T* x, uint8_t* codes)
      : walk_(walk),
        x_(x),
        codes_(codes),
        best_(walk.p.h.pool, walk.m_row, 0),
        best_code_(walk, kCodes ? walk.p.h.pool : 0),
        code_(walk, kCodes ? 1 : 0) {}

  void enter(int64_t unit, int64_t own_begin, int64_t own_end) {
    unit_ = unit;
    own_begin_ = own_begin;
    own_end_ = own_end;
    for (int64_t& h : held_) h = -1;
  }

  void make(int64_t u, Row* m) {
    const Params& p = walk_.p;
    const int begin = p.h.first_candidate(u), end = p.h.end_candidate(u);
    const Row* best[kMaxPool];
    Planes<V> from[kMaxPool];
    for (int r = begin; r < end; ++r) {
      const int64_t h = u - p.h.pad + r;
      const int slot = int(h % p.h.pool);
      if (held_[slot] != h) {
        select_columns<V, K, kCodes>(p, x_ + (unit_ * p.h.size + h) * walk_.x_row, best_[slot],
                                     best_code_.row(slot));
        held_[slot] = h;
      }
      best[r] = best_[slot];
      from[r] = best_code_.row(slot);
    }
    if (begin == 0 && end == p.h.pool)
      select_rows<V, K, kCodes>(p, best, from, begin, end, m, code_.row(0));
    else select_rows<V, 0, kCodes>(p, best, from, begin, end, m, code_.row(0));
    if (kCodes && u >= own_begin_ && u < own_end_) {
      for (int b = 0; b < walk_.code_bits; ++b)
        put_bits(codes_, code_plane_start(p, unit_, u, b),
                 reinterpret_cast<const uint8_t*>(code_.row(0)[b]), walk_.m_row);
      if (u == p.h.pooled() - 1 && (unit_ + 1) % p.units_per_image() == 0)
        put_end_of_image(p, codes_, unit_);
    }
  }

 private:
  const Walk& walk_;
  const T* x_;
  uint8_t* codes_;
  int64_t unit_ = 0, own_begin_ = 0, own_end_ = 0;
  int64_t held_[kMaxPool];  // which row of x is in which slot
  Scratch<Row> best_;
  CodeRows<V> best_code_, code_;
};

// Rows of m with the winners given by codes.
template <class V, class T>
class GivenRows {
 public:
  using Row = typename V::Scalar;

  GivenRows(const Walk& walk, const T* x, const uint8_t* codes)
      : walk_(walk),
        x_(x),
        codes_(codes),
        row_(walk.p.h.pool, walk.x_row, walk.p.w.pad * walk.p.step()),
        code_(walk, 1) {}

  void enter(int64_t unit, int64_t, int64_t) {
    unit_ = unit;
    for (int64_t& h : held_) h = -1;
  }

  void make(int64_t u, Row* m) {
    const Params& p = walk_.p;
    const int begin = p.h.first_candidate(u), end = p.h.end_candidate(u);
    const Row* row[kMaxPool];
    const Row one = 1;
    for (int r = begin; r < end; ++r) {
      const int64_t h = u - p.h.pad + r;
      const int slot = int(h % p.h.pool);
      if (held_[slot] != h) {
        const T* from = x_ + (unit_ * p.h.size + h) * walk_.x_row;
        sum_n_rows<V, 1>(&from, &one, 1, walk_.x_row, row_[slot]);
        held_[slot] = h;
      }
      row[r] = row_[slot];
    }
    for (int b = 0; b < walk_.code_bits; ++b)
      get_bits(reinterpret_cast<uint8_t*>(code_.row(0)[b]), codes_,
               code_plane_start(p, unit_, u, b), walk_.m_row);
    take_winners<V>(p, row, begin, end, code_.row(0), m);
  }

 private:
  const Walk& walk_;
  const T* x_;
  const uint8_t* codes_;
  int64_t unit_ = 0;
  int64_t held_[kMaxPool];
  Scratch<Row> row_;
  CodeRows<V> code_;
};

// The last rows of m that a source made, at most one for each tap.
template <class V, class Source>
class MadeRows {
 public:
  using Row = typename V::Scalar;

  MadeRows(const Walk& walk, Source& source)
      : source_(source), slots_(walk.p.h.n_taps), row_(slots_, walk.m_row, 0) {
    forget();
  }

  void forget() {
    for (int64_t& u : held_) u = -1;
  }

  // All rows of the list at once, so that none is dropped for another.
  void get(VerticalTaps::List list, const Row** row) {
    for (const auto& tap : list) {
      int slot = find(tap.row);
      if (slot < 0) {
        slot = slot_not_in(list);
        source_.make(tap.row, row_[slot]);
        held_[slot] = tap.row;
      }
      *row++ = row_[slot];
    }
  }

 private:
  int find(int64_t u) const {
    for (int s = 0; s < slots_; ++s)
      if (held_[s] == u) return s;
    return -1;
  }
  int slot_not_in(VerticalTaps::List list) const {
    for (int s = 0; s < slots_; ++s) {
      bool needed = false;
      for (const auto& tap : list) needed |= tap.row == held_[s];
      if (!needed) return s;
    }
    return 0;  // not reached: the list has no more rows than there are slots
  }

  Source& source_;
  int slots_;
  int64_t held_[kMaxTaps];
  Scratch<Row> row_;
};

// x itself as rows of m, for the blur alone.
template <class T>
class PlainRows {
 public:
  PlainRows(const Walk& walk, const T* x) : walk_(walk), x_(x) {}
  void enter(int64_t unit, int64_t, int64_t) { unit_ = unit; }
  void get(VerticalTaps::List list, const T** row) {
    for (const auto& tap : list) *row++ = x_ + (unit_ * walk_.p.h.size + tap.row) * walk_.x_row;
  }

 private:
  const Walk& walk_;
  const T* x_;
  int64_t unit_ = 0;
};

// Calls band(unit, first, last) for the part of each unit that lies in rows [begin, end).
template <class F>
void for_each_band(int64_t rows_per_unit, int64_t begin, int64_t end, F band) {
  for (int64_t at = begin; at < end;) {
    const int64_t unit = at / rows_per_unit, start = unit * rows_per_unit;
    const int64_t stop = start + rows_per_unit < end ? start + rows_per_unit : end;
    band(unit, at - start, stop - start);
    at = stop;
  }
}

// The first row of y that goes with row u of m: shares of m cut y in proportion.
inline int64_t share_of_y(const Params& p, int64_t u) {
  return (u * p.h.out() + p.h.pooled() - 1) / p.h.pooled();
}

// B_h B_v of the rows that `rows` gives, into rows [first, last) of y.
template <class V, class R, class Rows, class T>
void blur_rows(const Walk& walk, const Taps<V>& taps, Rows& rows,
               Scratch<typename V::Scalar>& blurred, int64_t first, int64_t last, T* y) {
  for (int64_t i = first; i < last; ++i) {
    const R* row[kMaxTaps];
    typename V::Scalar weight[kMaxTaps];
    const auto list = walk.vertical.sources(i);
    int n = 0;
    for (const auto& tap : list) weight[n++] = typename V::Scalar(tap.weight);
    rows.get(list, row);
    sum_rows<V>(row, weight, n, walk.m_row, blurred[0]);
    pad_columns(walk.p, blurred[0]);
    blur_columns<V>(walk.p, taps.w, blurred[0], y + i * walk.y_row);
  }
}

template <class V>
Scratch<typename V::Scalar> padded_rows(const Walk& walk, int rows) {
  const Axis& w = walk.p.w;
  return {rows, walk.m_row, (w.before > w.after ? w.before : w.after) * walk.p.step()};
}

template <class V, class T>
void blur_only(const Walk& walk, const T* x, T* y, int64_t begin, int64_t end) {
  const Params& p = walk.p;
  const Taps<V> taps(p);
  PlainRows<T> rows(walk, x);
  auto blurred = padded_rows<V>(walk, 1);
  for_each_band(p.h.pooled(), begin, end, [&](int64_t unit, int64_t u0, int64_t u1) {
    rows.enter(unit, u0, u1);
    blur_rows<V, T>(walk, taps, rows, blurred, share_of_y(p, u0), share_of_y(p, u1),
                    y + unit * p.h.out() * walk.y_row);
  });
}

template <class V, class T, class Source>
void blur_made_rows(const Walk& walk, Source& source, bool make_all, T* y, int64_t begin,
                    int64_t end) {
  using S = typename V::Scalar;
  const Params& p = walk.p;
  const Taps<V> taps(p);
  MadeRows<V, Source> rows(walk, source);
  auto blurred = padded_rows<V>(walk, 1);
  for_each_band(p.h.pooled(), begin, end, [&](int64_t unit, int64_t u0, int64_t u1) {
    source.enter(unit, u0, u1);
    rows.forget();
    const int64_t i0 = share_of_y(p, u0), i1 = share_of_y(p, u1);
    blur_rows<V, S>(walk, taps, rows, blurred, i0, i1, y + unit * p.h.out() * walk.y_row);
    if (!make_all) return;
    // Rows of ours that none of our rows of y reads still owe their codes.
    for (int64_t u = u0; u < u1; ++u) {
      bool made = false;
      for (const auto& tap : walk.vertical.targets(u)) made |= tap.row >= i0 && tap.row < i1;
      if (!made) source.make(u, blurred[0]);
    }
  });
}

template <class V, class T, int K, bool kCodes>
void forward_as(const Walk& walk, const T* x, T* y, uint8_t* codes, int64_t begin, int64_t end) {
  ChosenRows<V, T, K, kCodes> source(walk, x, codes);
  blur_made_rows<V>(walk, source, kCodes, y, begin, end);
}

template <class V, class T, int K>
void backward_as(const Walk& walk, const T* dy, const uint8_t* codes, T* dx, int64_t begin,
                 int64_t end) {
  using S = typename V::Scalar;
  const Params& p = walk.p;
  const Taps<V> taps(p);
  const bool linear = p.linear();
  Scratch<S> dv(1, walk.y_row, p.w.n_taps * p.step());
  auto dm = padded_rows<V>(walk, p.h.pool);
  CodeRows<V> code(walk, p.h.pool);
  Scratch<S> split(linear ? 0 : p.w.pool, walk.m_row, p.w.pool * p.step());
  Scratch<const T*> targets(1, walk.vertical.most_targets(), 0);
  Scratch<S> weights(1, walk.vertical.most_targets(), 0);

  for_each_band(p.h.size, begin, end, [&](int64_t unit, int64_t h0, int64_t h1) {
    const T* const dy_unit = dy + unit * p.h.out() * walk.y_row;
    T* const dx_unit = dx + unit * p.h.size * walk.x_row;
    // Row u of dm, and its codes, in slot u % pool.
    const auto make = [&](int64_t u) {
      const int slot = int(u % p.h.pool);
      int n = 0;
      for (const auto& tap : walk.vertical.targets(u)) {
        targets[0][n] = dy_unit + tap.row * walk.y_row;
        weights[0][n++] = S(tap.weight);
      }
      sum_rows<V>(targets[0], weights[0], n, walk.y_row, dv[0]);
      blur_columns_transposed<V>(p, taps.w, dv[0], dm[slot]);
      for (int b = 0; b < walk.code_bits; ++b)
        get_bits(reinterpret_cast<uint8_t*>(code.row(slot)[b]), codes,
                 code_plane_start(p, unit, u, b), walk.m_row);
    };
    int64_t next = h0 + p.h.pad - p.h.pool + 1;
    if (next < 0) next = 0;
    for (int64_t h = h0; h < h1; ++h) {
      const int64_t newest = h + p.h.pad < p.h.pooled() ? h + p.h.pad : p.h.pooled() - 1;
      for (; next <= newest; ++next) make(next);
      const int begin_r = int(h + p.h.pad - newest);
      const int end_r = int(h + p.h.pad < p.h.pool ? h + p.h.pad + 1 : p.h.pool);
      const S* row[kMaxPool];
      Planes<V> row_code[kMaxPool];
      for (int r = begin_r; r < end_r; ++r) {
        const int slot = int((h + p.h.pad - r) % p.h.pool);
        row[r] = dm[slot];
        row_code[r] = code.row(slot);
      }
      T* const out = dx_unit + h * walk.x_row;
      if (linear) store_row<V>(row[0], walk.x_row, out);
      else if (begin_r == 0 && end_r == p.h.pool)
        route_back<V, K>(p, row, row_code, begin_r, end_r, split, out);
      else route_back<V, 0>(p, row, row_code, begin_r, end_r, split, out);
    }
  });
}

template <class V, class T>
struct Entry {
  static void forward(const Params& p, const VerticalTaps& vertical, const T* x, T* y,
                      uint8_t* codes, int64_t begin, int64_t end) {
    const Walk walk(p, vertical);
    if (p.linear()) return blur_only<V>(walk, x, y, begin, end);
    with_pool(p, [&](auto pool) {
      if (codes) forward_as<V, T, pool(), true>(walk, x, y, codes, begin, end);
      else forward_as<V, T, pool(), false>(walk, x, y, codes, begin, end);
    });
  }

  static void backward(const Params& p, const VerticalTaps& vertical, const T* dy,
                       const uint8_t* codes, T* dx, int64_t begin, int64_t end) {
    const Walk walk(p, vertical);
    with_pool(p, [&](auto pool) { backward_as<V, T, pool()>(walk, dy, codes, dx, begin, end); });
  }

  static void apply(const Params& p, const VerticalTaps& vertical, const T* x, const uint8_t* codes,
                    T* y, int64_t begin, int64_t end) {
    const Walk walk(p, vertical);
    if (p.linear()) return blur_only<V>(walk, x, y, begin, end);
    GivenRows<V, T> source(walk, x, codes);
    blur_made_rows<V>(walk, source, false, y, begin, end);
  }

  static constexpr Kernels<T> kernels() { return {&forward, &backward, &apply}; }

 private:
  template <class F>
  static void with_pool(const Params& p, F f) {
    with_constant(SquarePools{}, specialised_pool(p.h.pool, p.w.pool), f);
  }
};

template <class F32, class F64>
constexpr Level make_level(const char* name, bool (*supported)()) {
  return {name,
          supported,
          Entry<F32, float>::kernels(),
          Entry<F64, double>::kernels(),
          Entry<F32, c10::Half>::kernels(),
          Entry<F32, c10::BFloat16>::kernels()};
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
