// Plain loops over one plane at a time: the winners, both blurs, and back.
#include "oracle/oracle.h"

#include <algorithm>
#include <cmath>

#include "oracle/numbers.h"

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

// out = terms along the columns or down the rows of `in`, which has `rows` x `width` numbers.
template <class R>
struct Blur {
  std::vector<Term<R>> terms;
  int64_t size_m, size_y;
  bool down;  // the rows

  Plane<R> operator()(const Plane<R>& in, int64_t rows, int64_t width, bool transposed) const {
    const int64_t size_out = transposed ? size_m : size_y;
    const int64_t width_out = down ? width : size_out;
    Plane<R> out(down ? size_out * width : rows * size_out);
    for (const auto& t : terms) {
      const int64_t from = transposed ? t.to : t.from, to = transposed ? t.from : t.to;
      if (down)
        for (int64_t j = 0; j < width; ++j) out.add(to * width + j, t.weight, in, from * width + j);
      else
        for (int64_t i = 0; i < rows; ++i)
          out.add(i * width_out + to, t.weight, in, i * width + from);
    }
    return out;
  }
  // The number of terms of the longest sum.
  double longest(bool transposed) const {
    std::vector<int> count(size_t(transposed ? size_m : size_y), 0);
    for (const auto& t : terms) ++count[size_t(transposed ? t.from : t.to)];
    return *std::max_element(count.begin(), count.end());
  }
  R sum_of_weights() const {
    R sum = 1;
    for (const auto& t : terms) sum += std::fabs(t.weight);
    return sum;
  }
};

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
class Oracle {
 public:
  Oracle(const Case& c, const Params& p, const void* x, const void* dy)
      : c_(c),
        p_(p),
        x_(x),
        dy_(dy),
        m_h_(p.h.pooled()),
        m_w_(p.w.pooled()),
        y_h_(p.h.out()),
        y_w_(p.w.out()),
        down_{terms_of<R>(p.h, p.taps_h, c.mode, c.type), m_h_, y_h_, true},
        along_{terms_of<R>(p.w, p.taps_w, c.mode, c.type), m_w_, y_w_, false},
        // A sum that comes near the largest number may overflow, in some order of summation.
        limit_(R(largest_of(c.type == Type::f64 ? Type::f64 : Type::f32)) * R(0.99L)) {}

  Answer answer() {
    const int64_t planes = p_.batch * p_.channels, pools = p_.h.pool + p_.w.pool;
    // Each product and each sum rounds once, and so does a sum of the weights of a row that the
    // padding repeats. The longest chain is a sum of sums.
    keep(answer_.y, planes * y_h_ * y_w_, 2 * down_.longest(false) + along_.longest(false), 1);
    keep(answer_.dx, planes * p_.h.size * p_.w.size,
         down_.longest(true) + along_.longest(true) + double(pools), p_.h.pool * p_.w.pool);
    answer_.row.resize(size_t(planes * m_h_ * m_w_)), answer_.column = answer_.row;
    for (int64_t image = 0; image < p_.batch; ++image)
      for (int64_t channel = 0; channel < p_.channels; ++channel) {
        const auto winners = forward(image, channel);
        backward(image, channel, winners);
      }
    return std::move(answer_);
  }

 private:
  void keep(Expected& to, int64_t n, double roundings, int64_t times) const {
    to.low.resize(size_t(n)), to.high.resize(size_t(n)), to.size.resize(size_t(n));
    to.roundings = roundings + 4;
    // Below the normal range a rounding is half of the smallest number, whatever the size. The blur
    // along either axis may come last, and multiplies what the other one lost.
    const double half = c_.type == Type::f64 ? 0x1p-1074 : 0x1p-150;
    const auto weights = double(std::max(down_.sum_of_weights(), along_.sum_of_weights()));
    to.tiny = half * std::ceil(to.roundings * (1 + weights)) * double(times);
  }

  void put(Expected& to, int64_t at, R value, R size) const {
    const R allowed = R(to.roundings) * R(rounding_of(c_.type)) * size + R(to.tiny);
    double low = double(value - allowed), high = double(value + allowed);
    if (!std::isfinite(value)) low = high = double(value);
    else if (c_.type == Type::f64)
      low = std::nextafter(low, -INFINITY), high = std::nextafter(high, INFINITY);
    else if (c_.type != Type::f32) low = round_to(c_.type, low), high = round_to(c_.type, high);
    to.low[size_t(at)] = low, to.high[size_t(at)] = high;
    to.size[size_t(at)] = size <= limit_ ? double(size) : double(INFINITY);
  }

  // Makes the size of what overflows infinite, and so of all that comes of it.
  Plane<R> marked(Plane<R> plane) const {
    for (R& size : plane.size)
      if (!(size <= limit_)) size = R(INFINITY);
    return plane;
  }

  // Both blurs, first down the rows. A kernel may blur along the rows first, and overflow where
  // this order does not.
  Plane<R> blur(const Plane<R>& in, int64_t rows, int64_t width, bool transposed) const {
    const int64_t rows_out = transposed ? m_h_ : y_h_, width_out = transposed ? m_w_ : y_w_;
    auto out = along_(marked(down_(in, rows, width, transposed)), rows_out, width, transposed);
    const R largest = *std::max_element(in.size.begin(), in.size.end());
    if (largest * along_.sum_of_weights() > limit_) {
      const auto other =
          down_(marked(along_(in, rows, width, transposed)), rows, width_out, transposed);
      for (size_t i = 0; i < out.size.size(); ++i)
        if (!(other.size[i] <= limit_)) out.size[i] = R(INFINITY);
    }
    return marked(std::move(out));
  }

  std::vector<Winner> forward(int64_t image, int64_t channel) {
    const Map map_x = map(p_.h.size, p_.w.size), map_m = map(m_h_, m_w_), map_y = map(y_h_, y_w_);
    std::vector<double> x(size_t(p_.h.size * p_.w.size));
    for (int64_t i = 0; i < p_.h.size; ++i)
      for (int64_t j = 0; j < p_.w.size; ++j)
        x[size_t(i * p_.w.size + j)] = get(c_.type, x_, map_x.at(image, channel, i, j));
    auto winners = winners_of(p_, x);
    Plane<R> m(m_h_ * m_w_);
    for (int64_t at = 0; at < m_h_ * m_w_; ++at) {
      Winner& best = winners[size_t(at)];
      const bool nobody = p_.relu && best.value <= 0;
      m.set(at, nobody ? R(0) : R(best.value));
      if (nobody) best.element = -1;
      const auto in_memory = size_t(map_m.at(image, channel, at / m_w_, at % m_w_));
      answer_.row[in_memory] = uint8_t(nobody ? p_.h.pool : best.row);
      answer_.column[in_memory] = uint8_t(best.column);
    }
    const auto y = blur(m, m_h_, m_w_, false);
    for (int64_t i = 0; i < y_h_; ++i)
      for (int64_t j = 0; j < y_w_; ++j) {
        const auto here = size_t(i * y_w_ + j);
        put(answer_.y, map_y.at(image, channel, i, j), y.value[here], y.size[here]);
      }
    return winners;
  }

  void backward(int64_t image, int64_t channel, const std::vector<Winner>& winners) {
    const Map map_x = map(p_.h.size, p_.w.size), map_y = map(y_h_, y_w_);
    Plane<R> dy(y_h_ * y_w_), dx(p_.h.size * p_.w.size);
    for (int64_t i = 0; i < y_h_; ++i)
      for (int64_t j = 0; j < y_w_; ++j)
        dy.set(i * y_w_ + j, R(get(c_.type, dy_, map_y.at(image, channel, i, j))));
    const auto dm = blur(dy, y_h_, y_w_, true);
    for (int64_t at = 0; at < m_h_ * m_w_; ++at)
      if (winners[size_t(at)].element >= 0) dx.add(winners[size_t(at)].element, R(1), dm, at);
    for (int64_t i = 0; i < p_.h.size; ++i)
      for (int64_t j = 0; j < p_.w.size; ++j) {
        const auto here = size_t(i * p_.w.size + j);
        put(answer_.dx, map_x.at(image, channel, i, j), dx.value[here], dx.size[here]);
      }
  }

  Map map(int64_t h, int64_t w) const { return {p_.channels, h, w, p_.channels_last}; }

  const Case& c_;
  const Params& p_;
  const void *const x_, *const dy_;
  const int64_t m_h_, m_w_, y_h_, y_w_;
  const Blur<R> down_, along_;
  const R limit_;
  Answer answer_;
};

}  // namespace

Answer answer(const Case& c, const Params& p, const void* x, const void* dy) {
  if (c.type == Type::f64) return Oracle<long double>(c, p, x, dy).answer();
  return Oracle<double>(c, p, x, dy).answer();
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
