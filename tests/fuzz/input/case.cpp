// Makes cases from bytes: mostly valid ones, and mostly those that have specialised kernels.
#include "input/case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

#include "oracle/numbers.h"

namespace fuzz {
namespace {

constexpr int64_t kBudget = 512, kLargeBudget = 4096;  // elements of x, and of the padded maps

std::vector<double> make_taps(Reader& in, int n) {
  std::vector<double> taps(size_t(n), 1.0);
  const int kind = in.below(8);
  Random random(in.byte() * 31u + unsigned(n));
  for (int i = 0; i < n; ++i) {
    double& tap = taps[size_t(i)];
    if (kind <= 2) tap = i == 0 ? std::ldexp(1.0, 1 - n) : taps[size_t(i) - 1] * (n - i) / i;
    else if (kind <= 4) tap = random.unit() * 2 - 1;
    else if (kind == 5) tap = double(random.below(5) - 2) / 4;  // zeros among them
    else if (kind == 6) tap = std::ldexp(random.unit() - 0.5, int(random.below(21)) - 10);
    else tap = random.below(4) ? random.unit() : std::ldexp(1.0, -int(random.below(1060)));
  }
  return taps;
}

int64_t make_size(Reader& in) {
  const int kind = in.below(16);
  if (kind < 11) return 1 + in.below(24);
  if (kind < 15) return 1 + in.below(70);
  return 1 + in.below(256) + in.below(256);
}

int64_t make_stride(Reader& in) {
  const int kind = in.below(8);
  if (kind < 5) return 1 + kind;
  if (kind < 7) return 1 + in.below(40);
  return (int64_t(1) << in.below(31)) + in.below(2);
}

const char* const kModes[] = {"reflect", "replicate", "zeros", "circular"};

// Square windows of 1 to 3, stride 2, 2 to 5 taps, the padding that keeps sizes.
void make_specialised(Reader& in, Case& c) {
  const int64_t k = 1 + in.below(3), pad = in.below(2) ? k / 2 : 0;
  const int f = 2 + in.below(4);
  c.pool = {k, k}, c.stride = {2, 2}, c.pad = {pad, pad};
  c.taps_h = make_taps(in, f), c.taps_w = make_taps(in, f);
  const int64_t before = (f - 1) / 2;
  int64_t after = f / 2;
  if (in.one_in(4)) after = in.below(int(after) + 1);
  c.blur_pad = {before, after, before, after};
}

// Changes some of it.
void make_neighbour(Reader& in, Case& c) {
  for (int changes = 1 + in.below(3); changes > 0; --changes) {
    const size_t axis = size_t(in.below(2));
    auto& taps = axis ? c.taps_w : c.taps_h;
    switch (in.below(6)) {
      case 0:
        c.pool[axis] = 1 + in.below(5);
        c.pad[axis] = in.below(int(c.pool[axis]) / 2 + 1);
        break;
      case 1: c.stride[axis] = 1 + in.below(4); break;
      case 2: taps = make_taps(in, 1 + in.below(8)); break;
      case 3: c.blur_pad[2 * axis] = in.below(7); break;
      case 4: c.blur_pad[2 * axis + 1] = in.below(7); break;
      default: c.pad[axis] = in.below(int(c.pool[axis]) / 2 + 1);
    }
  }
}

void make_general(Reader& in, Case& c) {
  c.pool.clear(), c.stride.clear(), c.pad.clear(), c.blur_pad.clear();
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t k = 1 + (in.below(2) ? in.below(5) : in.below(15));
    c.pool.push_back(k);
    c.pad.push_back(in.below(int(k) / 2 + 1));
    c.stride.push_back(make_stride(in));
    (axis ? c.taps_w : c.taps_h) = make_taps(in, 1 + (in.below(2) ? in.below(8) : in.below(31)));
    for (int end = 0; end < 2; ++end)
      c.blur_pad.push_back(in.below(4) ? in.below(6) : in.below(60));
  }
}

// Arguments at the edge of what is valid, on either side of it.
void make_edge(Reader& in, Case& c) {
  const size_t axis = size_t(in.below(2));
  int64_t& size = axis ? c.input.w : c.input.h;
  auto& taps = axis ? c.taps_w : c.taps_h;
  const int64_t k = c.pool[axis], pad = c.pad[axis], m = size + 2 * pad - k + 1;
  const int64_t room = m + c.blur_pad[2 * axis] + c.blur_pad[2 * axis + 1];
  const int64_t beside = in.below(3) - 1;
  switch (in.below(4)) {
    case 0: c.blur_pad[2 * axis + size_t(in.below(2))] = m + beside; break;
    case 1: taps.resize(size_t(std::clamp<int64_t>(room + beside, 0, 33)), 0.5); break;
    case 2: size = k - 2 * pad + beside; break;
    default: c.pad[axis] = k / 2 + beside;
  }
}

// Arguments that nobody should pass. Some of them are valid all the same.
void make_hostile(Reader& in, Case& c) {
  constexpr int64_t kOdd[] = {0,
                              -1,
                              1,
                              2,
                              15,
                              16,
                              31,
                              32,
                              INT32_MAX,
                              int64_t(1) << 31,
                              int64_t(1) << 40,
                              INT64_MAX,
                              INT64_MIN,
                              -7,
                              int64_t(1) << 58,
                              (int64_t(1) << 58) - 1,
                              int64_t(1) << 32,
                              255};
  const auto odd = [&] { return kOdd[in.below(int(std::size(kOdd)))]; };
  for (int changes = 1 + in.below(3); changes > 0; --changes) {
    const size_t axis = size_t(in.below(2));
    auto& taps = axis ? c.taps_w : c.taps_h;
    switch (in.below(12)) {
      case 0: c.pool[axis] = odd(); break;
      case 1: c.stride[axis] = odd(); break;
      case 2: c.pad[axis] = odd(); break;
      case 3: c.blur_pad[size_t(in.below(4))] = odd(); break;
      case 4: (axis ? c.input.w : c.input.h) = odd(); break;
      case 5: (axis ? c.input.c : c.input.n) = odd(); break;
      case 6: taps.resize(size_t(in.below(40)), 0.25); break;
      case 7:
        if (!taps.empty()) taps[size_t(in.below(int(taps.size())))] = in.below(2) ? INFINITY : NAN;
        break;
      case 8: c.mode = in.below(2) ? "constant" : std::string(size_t(in.below(60)), 'r'); break;
      case 9:
        c.pool.resize(size_t(in.below(4)), 1), c.pool.size() < 2 ? c.pool.push_back(1) : void();
        break;
      case 10: c.blur_pad.push_back(odd()); break;
      default: c.blur_pad[2 * axis] = c.blur_pad[2 * axis + 1] = odd();
    }
    if (c.blur_pad.size() != 4 || c.pool.size() != 2) return;
  }
}

void make_input(Reader& in, Case& c) {
  constexpr int kChannels[] = {1,  1,  2,  3,  5,  7,  8,  9,  15, 16,
                               17, 23, 24, 31, 32, 33, 40, 48, 64, 65};
  Input& x = c.input;
  x.channels_last = in.below(2);
  x.h = make_size(in), x.w = make_size(in);
  x.c = kChannels[in.below(int(std::size(kChannels)))];
  x.n = in.one_in(64) ? 0 : 1 + in.below(3);
  const int64_t budget = in.one_in(16) ? kLargeBudget : kBudget;
  const bool keep_channels = in.below(2);
  const auto elements = [&] { return x.n * x.c * (x.h + 2) * (x.w + 2); };
  while (x.n > 1 && elements() > budget) --x.n;
  if (keep_channels) {
    while (x.h > 3 && elements() > budget) --x.h;
    while (x.w > 3 && elements() > budget) --x.w;
  }
  while (x.c > 1 && elements() > budget) --x.c;
  while (x.h > 1 && elements() > budget) --x.h;
  while (x.w > 1 && elements() > budget) --x.w;
}

}  // namespace

void make_valid(Case& c) {
  for (size_t axis = 0; axis < 2; ++axis) {
    int64_t& size = axis ? c.input.w : c.input.h;
    auto& taps = axis ? c.taps_w : c.taps_h;
    int64_t &before = c.blur_pad[2 * axis], &after = c.blur_pad[2 * axis + 1];
    c.pad[axis] = std::min(c.pad[axis], c.pool[axis] / 2);
    size = std::max(size, c.pool[axis] - 2 * c.pad[axis]);
    const int64_t m = size + 2 * c.pad[axis] - c.pool[axis] + 1;
    const int64_t widest = c.mode == "reflect" ? m - 1 : c.mode == "circular" ? m : 64;
    before = std::min(before, widest), after = std::min(after, widest);
    const int64_t room = m + before + after;
    if (int64_t(taps.size()) > room) taps.resize(size_t(room));
  }
}

Case make_case(const uint8_t* data, size_t size) {
  Reader in(data, size);
  Case c;
  const int profile = in.below(32);
  c.type = Type(in.below(4));
  c.relu = in.below(2);
  c.mode = kModes[in.below(4)];
  make_specialised(in, c);
  make_input(in, c);
  if (profile >= 18 && profile < 24) make_neighbour(in, c);
  if (profile >= 24) make_general(in, c);
  if (profile < 31) make_valid(c);
  if (profile == 30) make_edge(in, c);
  if (profile == 31) make_hostile(in, c);
  const auto fill = [&](int of) { return Fill(of < 8 ? in.below(2) : in.below(int(Fill::count))); };
  c.fill_x = fill(in.below(16)), c.fill_dy = fill(in.below(12));
  c.place = Place(in.below(3));
  c.offset = in.below(64);
  c.threads = 1 + in.below(4);
  c.tiles = in.below(4);
  c.all_targets = in.one_in(4);
  c.shares = in.below(2);
  c.noise = in.one_in(16);
  c.arena = in.below(4);
  c.seed = in.number();
  return c;
}

bool is_valid(const Case& c) {
  using Wide = __int128;
  if (c.pool.size() != 2 || c.stride.size() != 2 || c.pad.size() != 2 || c.blur_pad.size() != 4)
    return false;
  if (std::find(std::begin(kModes), std::end(kModes), c.mode) == std::end(kModes)) return false;
  const Input& x = c.input;
  if (x.n < 0 || x.c < 1) return false;
  long double largest = (long double)x.n * (long double)x.c;
  for (size_t axis = 0; axis < 2; ++axis) {
    const auto& taps = axis ? c.taps_w : c.taps_h;
    if (taps.empty() || taps.size() > 31) return false;
    for (double tap : taps)
      if (!std::isfinite(tap)) return false;
    const int64_t k = c.pool[axis], s = c.stride[axis], p = c.pad[axis];
    const int64_t before = c.blur_pad[2 * axis], after = c.blur_pad[2 * axis + 1];
    const int64_t size = axis ? x.w : x.h, limit = int64_t(1) << 31;
    if (k < 1 || k > 15 || s < 1 || s >= limit || p < 0 || p > k / 2) return false;
    if (before < 0 || after < 0 || before >= limit || after >= limit) return false;
    if (size < 1 || size >= int64_t(1) << 58) return false;
    const Wide m = Wide(size) + 2 * p - k + 1, widest = std::max(before, after);
    if (m < 1 || (c.mode == "reflect" && widest >= m) || (c.mode == "circular" && widest > m))
      return false;
    if (m + before + after < Wide(taps.size())) return false;
    largest *= (long double)(Wide(size) + m + before + after);
  }
  return largest < 0x1p58L;
}

bool is_small(const Params& p) {
  constexpr int64_t kMost = 16384;
  long double x = (long double)p.batch * p.channels, padded = x;
  for (const auto& axis : {p.h, p.w}) x *= axis.size, padded *= axis.padded();
  return x <= kMost && padded <= 4 * kMost && p.channels <= kMost && p.h.padded() <= kMost &&
         p.w.padded() <= kMost;
}

std::string describe(const Case& c) {
  std::ostringstream out;
  const auto list = [&](const char* name, const auto& values) {
    out << ' ' << name << " [";
    for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
    out << ']';
  };
  constexpr const char* kTypes[] = {"float32", "float64", "float16", "bfloat16"};
  constexpr const char* kFills[] = {"normal",        "ties", "specials", "one special",
                                    "many specials", "huge", "tiny",     "any bits"};
  constexpr const char* kPlaces[] = {"end at a guard page", "start at a guard page", "inside"};
  out << kTypes[int(c.type)] << (c.input.channels_last ? " channels_last" : " contiguous");
  list("input", std::vector{c.input.n, c.input.c, c.input.h, c.input.w});
  list("pool", c.pool), list("stride", c.stride), list("padding", c.pad);
  list("blur_padding", c.blur_pad);
  out << ' ' << c.mode << (c.relu ? " relu" : "");
  out.precision(17);
  list("taps_h", c.taps_h), list("taps_w", c.taps_w);
  out << "; x " << kFills[int(c.fill_x)] << ", dy " << kFills[int(c.fill_dy)] << "; tensors "
      << kPlaces[int(c.place)] << ", offset " << c.offset << ", threads " << c.threads << ", tiles "
      << c.tiles << (c.all_targets ? ", all targets" : "") << (c.shares ? ", shares" : "")
      << (c.arena ? ", arena" : "") << (c.noise ? ", noise codes" : "") << ", seed " << c.seed;
  return out.str();
}

std::vector<uint8_t> values(const Case& c, Fill fill, int64_t n, uint64_t salt) {
  std::vector<uint8_t> bytes(size_t(n) * c.element());
  Random random(c.seed + salt);
  const double largest = largest_of(c.type), smallest = smallest_of(c.type);
  const double specials[] = {NAN,     INFINITY, -INFINITY, -0.0,      0.0,
                             largest, -largest, smallest,  -smallest, largest / 2};
  const auto special = [&] { return specials[random.below(10)]; };
  const int64_t chosen = n ? random.below(n) : 0;
  for (int64_t i = 0; i < n; ++i) {
    double value = random.unit() * 4 - 2;
    switch (fill) {
      case Fill::ties: value = double(std::max<int64_t>(random.below(5) - 2, 0)); break;
      case Fill::specials: value = random.below(24) ? value : special(); break;
      case Fill::one_special: value = i == chosen ? special() : value; break;
      case Fill::many: value = random.below(2) ? double(random.below(3) - 1) : special(); break;
      case Fill::huge: value *= largest / 2; break;
      case Fill::tiny: value = smallest * double(random.below(4096) - 2048); break;
      default: break;
    }
    put(c.type, bytes.data(), i, value);
    if (fill != Fill::any_bits) continue;
    const uint64_t bits = random.bits();
    std::memcpy(bytes.data() + size_t(i) * c.element(), &bits, c.element());
  }
  return bytes;
}

}  // namespace fuzz
