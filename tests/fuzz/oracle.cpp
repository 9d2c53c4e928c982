#include "oracle.h"

#include <algorithm>
#include <cmath>

#include "numbers.h"

namespace fuzz {
namespace {

// One rounding where the kernels sum: in float32 for all types but float64.
double rounding_of(Type type) { return type == Type::f64 ? 0x1p-53 : 0x1p-24; }

// A map of n images, as numbers; element (n, c, i, j) of either layout.
struct Map {
  int64_t c, h, w;
  bool channels_last;
  int64_t at(int64_t image, int64_t channel, int64_t i, int64_t j) const {
    return channels_last ? ((image * h + i) * w + j) * c + channel
                         : ((image * c + channel) * h + i) * w + j;
  }
};

// Where each position of the padded axis has its value from; -1 for a zero.
std::vector<int64_t> sources(const fastblur::Axis& a, const std::string& mode) {
  std::vector<int64_t> from;
  const int64_t m = a.pooled();
  for (int64_t q = -a.before; q < m + a.after; ++q) {
    int64_t u = q;
    if (mode == "zeros" && (q < 0 || q >= m)) u = -1;
    if (mode == "replicate") u = std::clamp<int64_t>(q, 0, m - 1);
    if (mode == "circular") u = (q % m + m) % m;
    if (mode == "reflect") u = q < 0 ? -q : q >= m ? 2 * (m - 1) - q : q;
    from.push_back(u);
  }
  return from;
}

template <class R>
struct Term {
  int64_t from, to;
  R weight;
};

// The blur along one axis: output `to` takes element `from` with a weight.
template <class R>
std::vector<Term<R>> terms_of(const fastblur::Axis& a, const double* taps, const std::string& mode,
                              Type type) {
  std::vector<Term<R>> terms;
  const auto from = sources(a, mode);
  for (int64_t i = 0; i < a.out(); ++i)
    for (int t = 0; t < a.n_taps; ++t) {
      const int64_t u = from[size_t(i * a.stride + t)];
      // The kernels sum in float32, for all types but float64, and have the taps in that type.
      const double tap = type == Type::f64 ? taps[t] : double(float(taps[t]));
      if (u >= 0) terms.push_back({u, i, R(tap)});
    }
  return terms;
}

template <class R>
double longest_sum(const std::vector<Term<R>>& terms, int64_t n, bool transposed) {
  std::vector<int> count(size_t(n), 0);
  for (const auto& t : terms) ++count[size_t(transposed ? t.from : t.to)];
  return count.empty() ? 0 : *std::max_element(count.begin(), count.end());
}

template <class R>
R sum_of_weights(const std::vector<Term<R>>& terms) {
  R sum = 1;
  for (const auto& t : terms) sum += std::fabs(t.weight);
  return sum;
}

// A plane of numbers, with the sums of their terms' absolute values.
template <class R>
struct Plane {
  std::vector<R> value, size;
  explicit Plane(int64_t n) : value(size_t(n), R(0)), size(size_t(n), R(0)) {}
  void set(int64_t i, R v) {
    value[size_t(i)] = v, size[size_t(i)] = std::isfinite(v) ? std::fabs(v) : R(0);
  }
  void add(int64_t i, R weight, const Plane& other, int64_t j) {
    value[size_t(i)] += weight * other.value[size_t(j)];
    size[size_t(i)] += std::fabs(weight) * other.size[size_t(j)];
  }
};

// out = terms along the rows or the columns of `in`, whose rows have `width` elements.
template <class R>
Plane<R> apply_rows(const std::vector<Term<R>>& terms, const Plane<R>& in, int64_t width,
                    int64_t rows_out, bool transposed) {
  Plane<R> out(rows_out * width);
  for (const auto& t : terms) {
    const int64_t from = transposed ? t.to : t.from, to = transposed ? t.from : t.to;
    for (int64_t j = 0; j < width; ++j) out.add(to * width + j, t.weight, in, from * width + j);
  }
  return out;
}

template <class R>
Plane<R> apply_columns(const std::vector<Term<R>>& terms, const Plane<R>& in, int64_t width_in,
                       int64_t rows, int64_t width_out, bool transposed) {
  Plane<R> out(rows * width_out);
  for (int64_t i = 0; i < rows; ++i)
    for (const auto& t : terms) {
      const int64_t from = transposed ? t.to : t.from, to = transposed ? t.from : t.to;
      out.add(i * width_out + to, t.weight, in, i * width_in + from);
    }
  return out;
}

// Of a window or a part of it: the winner, its place in the window, and its element of x.
struct Winner {
  double value = 0;
  int row = -1, column = -1;
  int64_t element = -1;
};

// The first of equal values wins, and so does the last NaN.
void take(Winner& best, const Winner& candidate) {
  if (best.row < 0 || candidate.value > best.value || std::isnan(candidate.value)) best = candidate;
}

// The winners of a plane x: first along columns, then down the rows.
std::vector<Winner> winners_of(const Params& p, const std::vector<double>& x) {
  const int64_t m_h = p.h.pooled(), m_w = p.w.pooled();
  std::vector<Winner> in_rows(size_t(p.h.size * m_w)), winners(size_t(m_h * m_w));
  for (int64_t i = 0; i < p.h.size; ++i)
    for (int64_t v = 0; v < m_w; ++v)
      for (int k = 0; k < p.w.pool; ++k) {
        const int64_t j = v - p.w.pad + k, at = i * p.w.size + j;
        if (j >= 0 && j < p.w.size) take(in_rows[size_t(i * m_w + v)], {x[size_t(at)], 0, k, at});
      }
  for (int64_t u = 0; u < m_h; ++u)
    for (int64_t v = 0; v < m_w; ++v)
      for (int r = 0; r < p.h.pool; ++r) {
        const int64_t i = u - p.h.pad + r;
        if (i < 0 || i >= p.h.size) continue;
        Winner candidate = in_rows[size_t(i * m_w + v)];
        candidate.row = r;
        take(winners[size_t(u * m_w + v)], candidate);
      }
  return winners;
}

template <class R>
Answer answer_in(const Case& c, const Params& p, const void* x, const void* dy) {
  const int64_t m_h = p.h.pooled(), m_w = p.w.pooled(), y_h = p.h.out(), y_w = p.w.out();
  const Map map_x{p.channels, p.h.size, p.w.size, p.channels_last};
  const Map map_m{p.channels, m_h, m_w, p.channels_last};
  const Map map_y{p.channels, y_h, y_w, p.channels_last};
  const int64_t planes = p.batch * p.channels;
  const auto vertical = terms_of<R>(p.h, p.taps_h, c.mode, c.type);
  const auto horizontal = terms_of<R>(p.w, p.taps_w, c.mode, c.type);
  // A float32 sum that comes near its largest number may overflow, in some order of summation.
  const R limit = R(largest_of(c.type == Type::f64 ? Type::f64 : Type::f32)) * R(0.99L);

  // Each product and each sum rounds once, and so does a sum of weights of a row that the padding
  // repeats. The longest chain is a sum of sums. Below the normal range a rounding is half of the
  // smallest number, whatever the size.
  Answer answer;
  const double half = c.type == Type::f64 ? 0x1p-1074 : 0x1p-150;
  // The blur along either axis may come last, and multiplies what the other one lost.
  const auto weights = double(std::max(sum_of_weights(vertical), sum_of_weights(horizontal)));
  const auto keep = [&](Expected& to, int64_t n, double roundings, int64_t times) {
    to.low.resize(size_t(n)), to.high.resize(size_t(n)), to.size.resize(size_t(n));
    to.roundings = roundings + 4;
    to.tiny = half * std::ceil(to.roundings * (1 + weights)) * double(times);
  };
  keep(answer.y, planes * y_h * y_w,
       2 * longest_sum(vertical, y_h, false) + longest_sum(horizontal, y_w, false), 1);
  keep(answer.dx, planes * p.h.size * p.w.size,
       longest_sum(vertical, m_h, true) + longest_sum(horizontal, m_w, true) + p.h.pool + p.w.pool,
       p.h.pool * p.w.pool);
  answer.row.resize(size_t(planes * m_h * m_w)), answer.column = answer.row;
  const auto put_element = [&](Expected& to, int64_t at, R value, R size) {
    const R allowed = R(to.roundings) * R(rounding_of(c.type)) * size + R(to.tiny);
    double low = double(value - allowed), high = double(value + allowed);
    if (!std::isfinite(value)) low = high = double(value);
    else if (c.type == Type::f64)
      low = std::nextafter(low, -INFINITY), high = std::nextafter(high, INFINITY);
    else if (c.type != Type::f32) low = round_to(c.type, low), high = round_to(c.type, high);
    to.low[size_t(at)] = low, to.high[size_t(at)] = high;
    to.size[size_t(at)] = size <= limit ? double(size) : double(INFINITY);
  };
  const auto overflows = [&](Plane<R>& plane) {  // and all that comes of it
    for (R& size : plane.size)
      if (!(size <= limit)) size = R(INFINITY);
  };

  const auto near_limit = [&](const Plane<R>& plane, const std::vector<Term<R>>& terms) {
    const R largest =
        plane.size.empty() ? 0 : *std::max_element(plane.size.begin(), plane.size.end());
    return largest * sum_of_weights(terms) > limit;
  };
  const auto keep_overflows = [&](Plane<R>& plane, const Plane<R>& other) {
    for (size_t i = 0; i < plane.size.size(); ++i)
      if (!(other.size[i] <= limit)) plane.size[i] = R(INFINITY);
  };

  for (int64_t image = 0; image < p.batch; ++image) {
    for (int64_t channel = 0; channel < p.channels; ++channel) {
      Plane<R> m(m_h * m_w), up(y_h * y_w), dx(p.h.size * p.w.size);
      std::vector<double> own(size_t(p.h.size * p.w.size));
      for (int64_t i = 0; i < p.h.size; ++i)
        for (int64_t j = 0; j < p.w.size; ++j)
          own[size_t(i * p.w.size + j)] = get(c.type, x, map_x.at(image, channel, i, j));
      auto winners = winners_of(p, own);
      for (int64_t at = 0; at < m_h * m_w; ++at) {
        Winner& best = winners[size_t(at)];
        const bool nobody = p.relu && best.value <= 0;
        m.set(at, nobody ? R(0) : R(best.value));
        if (nobody) best.element = -1;
        const auto in_memory = size_t(map_m.at(image, channel, at / m_w, at % m_w));
        answer.row[in_memory] = uint8_t(nobody ? p.h.pool : best.row);
        answer.column[in_memory] = uint8_t(best.column);
      }
      auto rows = apply_rows(vertical, m, m_w, y_h, false);
      overflows(rows);
      auto y = apply_columns(horizontal, rows, m_w, y_h, y_w, false);
      if (near_limit(m, horizontal)) {  // a kernel that blurs along the rows first may overflow
        auto columns = apply_columns(horizontal, m, m_w, m_h, y_w, false);
        overflows(columns);
        keep_overflows(y, apply_rows(vertical, columns, y_w, y_h, false));
      }
      for (int64_t i = 0; i < y_h; ++i)
        for (int64_t j = 0; j < y_w; ++j) {
          const int64_t at = map_y.at(image, channel, i, j), here = i * y_w + j;
          put_element(answer.y, at, y.value[size_t(here)], y.size[size_t(here)]);
          up.set(here, R(get(c.type, dy, at)));
        }
      auto dv = apply_rows(vertical, up, y_w, m_h, true);
      overflows(dv);
      auto dm = apply_columns(horizontal, dv, y_w, m_h, m_w, true);
      if (near_limit(up, horizontal)) {
        auto columns = apply_columns(horizontal, up, y_w, y_h, m_w, true);
        overflows(columns);
        keep_overflows(dm, apply_rows(vertical, columns, m_w, m_h, true));
      }
      overflows(dm);
      for (int64_t at = 0; at < m_h * m_w; ++at)
        if (winners[size_t(at)].element >= 0) dx.add(winners[size_t(at)].element, R(1), dm, at);
      for (int64_t i = 0; i < p.h.size; ++i)
        for (int64_t j = 0; j < p.w.size; ++j) {
          const int64_t here = i * p.w.size + j;
          put_element(answer.dx, map_x.at(image, channel, i, j), dx.value[size_t(here)],
                      dx.size[size_t(here)]);
        }
    }
  }
  return answer;
}

}  // namespace

Answer answer(const Case& c, const Params& p, const void* x, const void* dy) {
  return c.type == Type::f64 ? answer_in<long double>(c, p, x, dy) : answer_in<double>(c, p, x, dy);
}

int64_t first_wrong(Type type, const Expected& expected, const void* got) {
  for (size_t i = 0; i < expected.low.size(); ++i) {
    if (std::isinf(expected.size[i])) continue;
    const double low = expected.low[i], high = expected.high[i];
    const double value = get(type, got, int64_t(i));
    if (std::isnan(low) ? !std::isnan(value) : !(value >= low && value <= high)) return int64_t(i);
  }
  return -1;
}

double roundings_apart(Type type, const Expected& expected, int64_t i, double a, double b) {
  const double size = expected.size[size_t(i)] * rounding_of(type) + expected.tiny;
  return std::fabs(a - b) / size;
}

int64_t first_wrong_winner(const Params& p, const Answer& answer, const uint8_t* codes) {
  const auto bits_for = [](int states) {
    int bits = 0;
    while ((1 << bits) < states) ++bits;
    return bits;
  };
  const int column_bits = bits_for(p.w.pool), row_bits = bits_for(p.h.pool + p.relu);
  const int64_t m_h = p.h.pooled(), m_w = p.w.pooled();
  const int64_t beside = p.channels_last ? p.channels : 1;  // elements of a column
  const int64_t planes = p.channels_last ? p.batch : p.batch * p.channels;
  const int64_t row_bytes = (std::max(p.w.size, m_w) * beside + 7) / 8;
  int64_t at = 0;
  for (int64_t plane = 0; plane < planes; ++plane)
    for (int64_t u = 0; u < m_h; ++u)
      for (int64_t i = 0; i < m_w * beside; ++i, ++at) {
        int fields[2] = {0, 0};
        for (int b = 0; b < column_bits + row_bits; ++b) {
          const int64_t start = ((plane * (column_bits + row_bits) + b) * m_h + u) * row_bytes;
          const int bit = codes[start + i / 8] >> i % 8 & 1;
          fields[b < column_bits ? 0 : 1] |= bit << (b < column_bits ? b : b - column_bits);
        }
        const bool nobody = answer.row[size_t(at)] == p.h.pool;
        if (fields[1] != answer.row[size_t(at)]) return at;
        if (!nobody && fields[0] != answer.column[size_t(at)]) return at;
      }
  return -1;
}

}  // namespace fuzz
