#include "oracle/compare.h"

#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "oracle/numbers.h"
#include "oracle/report.h"

namespace fuzz {

const char* name_of(Type type) {
  constexpr const char* kNames[] = {"float32", "float64", "float16", "bfloat16"};
  return kNames[int(type)];
}

std::optional<Params> plan(const Case& c) {
  try {
    const fastblur::Plan plan(c.pool, c.stride, c.pad, c.taps_h, c.taps_w, c.blur_pad, c.mode,
                              c.relu);
    const Params p = plan.params(c.input);
    if (!is_valid(c)) fail(c, "Plan takes what is not valid");
    if (is_small(p)) return p;
    ++*counter("valid, too large to run");
  } catch (const std::invalid_argument& error) {
    if (!*error.what()) fail(c, "Plan refuses without a word");
    if (is_valid(c)) fail(c, std::string("Plan refuses what is valid: ") + error.what());
    ++*counter("refused");
  }
  return {};
}

int64_t first_difference(Type type, const Bytes& a, const Bytes& b) {
  if (a == b) return -1;
  const auto n = int64_t(a.size() / size_of(type));
  for (int64_t i = 0; i < n; ++i)
    if (bits_at(type, a.data(), i) != bits_at(type, b.data(), i) &&
        !(std::isnan(get(type, a.data(), i)) && std::isnan(get(type, b.data(), i))))
      return i;
  return -1;
}

void check(const Case& c, const std::string& what, const Expected& expected, const Bytes& got) {
  const int64_t at = first_wrong(c.type, expected, got.data());
  if (at < 0) return;
  char text[200];
  std::snprintf(text, sizeof text, " is wrong: element %lld is %.17g, expected %.17g to %.17g",
                (long long)at, get(c.type, got.data(), at), expected.low[size_t(at)],
                expected.high[size_t(at)]);
  fail(c, what + text);
}

void require_same(const Case& c, const std::string& what, const Bytes& a, const Bytes& b) {
  const int64_t at = first_difference(c.type, a, b);
  if (at < 0) return;
  char text[200];
  std::snprintf(text, sizeof text, ": element %lld is %.17g, and was %.17g", (long long)at,
                get(c.type, b.data(), at), get(c.type, a.data(), at));
  fail(c, what + text);
}

void require_same_but_zeros(const Case& c, const std::string& what, const Bytes& a,
                            const Bytes& b) {
  if (first_difference(c.type, a, b) < 0) return;
  Bytes alike = b;
  const auto n = int64_t(a.size() / size_of(c.type));
  for (int64_t i = 0; i < n; ++i) {
    const double left = get(c.type, a.data(), i), right = get(c.type, b.data(), i);
    if (left == 0 && right == 0) put(c.type, alike.data(), i, left);
  }
  require_same(c, what, a, alike);
}

void count_run(const Case& c, const Params& p, const std::string& kernels) {
  ++*counter((std::string("ran ") + name_of(c.type)).c_str());
  ++*counter(p.linear() ? "ran linear" : p.relu ? "ran relu" : "ran max");
  ++*counter(p.channels_last ? "ran channels_last" : "ran contiguous");
  ++*counter(("ran " + kernels).c_str());
}

}  // namespace fuzz
