// One run of the CPU's core: Plan, then every target, whole and in shares, against the oracle.
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/backend.h"
#include "cpu/codes/layout.h"
#include "cpu/targets/dispatch.h"
#include "kernels/memory.h"
#include "kernels/sizes.h"
#include "oracle/compare.h"
#include "oracle/numbers.h"
#include "oracle/oracle.h"
#include "oracle/report.h"

// arena.cpp is linked twice: with an arena, and without, which AddressSanitizer guards.
namespace fastblur::cpu {
void* kept_take_scratch(size_t bytes);
void kept_give_back_scratch(void* block) noexcept;
void* guarded_take_scratch(size_t bytes);
void guarded_give_back_scratch(void* block) noexcept;

static bool with_arena = false;
void* take_scratch(size_t bytes) {
  return with_arena ? kept_take_scratch(bytes) : guarded_take_scratch(bytes);
}
void give_back_scratch(void* block) noexcept {
  with_arena ? kept_give_back_scratch(block) : guarded_give_back_scratch(block);
}
}  // namespace fastblur::cpu

namespace fuzz {
namespace {

// The first are those of csrc/cpu, but for large results, which bypass the caches: a small map
// never has so many bytes.
constexpr Sizes kSizes[] = {
    {4096, 2048, 1024, 512, 7, 3, 6, 1024, 512, 512},
    {256, 128, 1024, 512, 7, 3, 6, 64, 2 << 20, 4 << 20},
    {128, 64, 64, 64, 2, 1, 2, 128, 512, 1024},
    {16, 16, 128, 128, 3, 2, 4, 64, 2 << 20, 512},
};

}  // namespace

Sizes sizes = kSizes[0];

namespace {

using namespace fastblur;
struct Results {
  Bytes y, codes, dx, applied;
};

// Runs the operators of a case, each time between guard pages.
class Runner {
 public:
  Runner(const Case& c, const Params& p, const Bytes& x, const Bytes& dy)
      : c_(c),
        p_(p),
        call_(p, c.type),
        x_(x),
        dy_(dy),
        code_bytes_(p.linear() ? 0 : size_t(p.batch * cpu::code_bytes_per_image(p))) {}

  // All operators through the public entry.
  Results whole(int fill) {
    Results r;
    r.y.resize(dy_.size()), r.dx.resize(x_.size());
    r.applied = r.y, r.codes.resize(code_bytes_);
    with_forward(fill, true, r, [&](const void* x, void* y, uint8_t* codes) {
      call_.forward(x, y, codes, c_.threads);
    });
    with_backward(fill, r, [&](const void* dy, const uint8_t* codes, void* dx) {
      call_.backward(dy, codes, dx, c_.threads);
    });
    with_apply(fill, r, [&](const void* x, const uint8_t* codes, void* y) {
      call_.apply(x, codes, y, c_.threads);
    });
    return r;
  }

  // Forward without codes.
  Bytes without_codes(int fill) {
    Results r;
    r.y.resize(dy_.size());
    with_forward(fill, false, r, [&](const void* x, void* y, uint8_t*) {
      call_.forward(x, y, nullptr, c_.threads);
    });
    return r.y;
  }

  // All operators in shares of rows, as threads have them, in any order.
  Results in_shares(int fill, Random& random) {
    switch (c_.type) {
      case Type::f32: return in_shares_of<float>(fill, random);
      case Type::f64: return in_shares_of<double>(fill, random);
      case Type::f16: return in_shares_of<cpu::Half>(fill, random);
      default: return in_shares_of<cpu::BFloat16>(fill, random);
    }
  }

  // Backward and apply with codes that name anything: nothing but the memory is checked.
  void with_noise(Random& random) {
    Results r;
    r.codes.resize(code_bytes_), r.dx.resize(x_.size()), r.applied.resize(dy_.size());
    for (uint8_t& byte : r.codes) byte = uint8_t(random.bits() >> 13);
    with_backward(0x5a, r, [&](const void* dy, const uint8_t* codes, void* dx) {
      call_.backward(dy, codes, dx, c_.threads);
    });
    with_apply(0x5a, r, [&](const void* x, const uint8_t* codes, void* y) {
      call_.apply(x, codes, y, c_.threads);
    });
  }

 private:
  template <class F>
  void with_forward(int fill, bool with_codes, Results& r, F f) {
    void* const x = input(rooms_[0], x_);
    void* const y = rooms_[1].give(c_, r.y.size(), c_.element(), fill);
    void* const codes = rooms_[2].give(c_, with_codes ? code_bytes_ : 0, 1, fill);
    f(x, y, with_codes && code_bytes_ ? static_cast<uint8_t*>(codes) : nullptr);
    same(x, x_, "x of forward");
    copy(r.y, y), copy(r.codes, codes);
  }
  template <class F>
  void with_backward(int fill, Results& r, F f) {
    void* const dy = input(rooms_[0], dy_);
    void* const dx = rooms_[1].give(c_, r.dx.size(), c_.element(), fill);
    void* const codes = give_codes(r.codes);
    f(dy, static_cast<const uint8_t*>(codes), dx);
    same(dy, dy_, "dy"), same(codes, r.codes, "codes of backward");
    copy(r.dx, dx);
  }
  template <class F>
  void with_apply(int fill, Results& r, F f) {
    void* const x = input(rooms_[0], x_);
    void* const y = rooms_[1].give(c_, r.applied.size(), c_.element(), fill);
    void* const codes = give_codes(r.codes);
    f(x, static_cast<const uint8_t*>(codes), y);
    same(x, x_, "x of apply"), same(codes, r.codes, "codes of apply");
    copy(r.applied, y);
  }

  template <class T>
  Results in_shares_of(int fill, Random& random) {
    const auto& kernels = cpu::target().kernels(static_cast<T*>(nullptr));
    const cpu::VerticalTaps vertical(p_);
    Results r;
    r.y.resize(dy_.size()), r.dx.resize(x_.size());
    r.applied = r.y, r.codes.resize(code_bytes_);
    with_forward(fill, true, r, [&](const void* x, void* y, uint8_t* codes) {
      for_each_share(random, p_.planes() * p_.h.pooled(), [&](int64_t begin, int64_t end) {
        kernels.forward(p_, vertical, static_cast<const T*>(x), static_cast<T*>(y), codes, begin,
                        end);
      });
    });
    with_backward(fill, r, [&](const void* dy, const uint8_t* codes, void* dx) {
      for_each_share(random, p_.planes() * p_.h.size, [&](int64_t begin, int64_t end) {
        kernels.backward(p_, vertical, static_cast<const T*>(dy), codes, static_cast<T*>(dx), begin,
                         end);
      });
    });
    with_apply(fill, r, [&](const void* x, const uint8_t* codes, void* y) {
      for_each_share(random, p_.planes() * p_.h.pooled(), [&](int64_t begin, int64_t end) {
        kernels.apply(p_, vertical, static_cast<const T*>(x), codes, static_cast<T*>(y), begin,
                      end);
      });
    });
    return r;
  }

  template <class F>
  static void for_each_share(Random& random, int64_t rows, F f) {
    std::vector<int64_t> cuts = {0, rows};
    for (int64_t n = random.below(5); rows && n > 0; --n) cuts.push_back(random.below(rows + 1));
    std::sort(cuts.begin(), cuts.end());
    const bool backwards = random.below(2);
    for (size_t k = 0; k + 1 < cuts.size(); ++k) {
      const size_t share = backwards ? cuts.size() - 2 - k : k;
      if (cuts[share] < cuts[share + 1]) f(cuts[share], cuts[share + 1]);
    }
  }

  void* input(Room& room, const Bytes& bytes) {
    void* const at = room.give(c_, bytes.size(), c_.element(), 0);
    std::memcpy(at, bytes.data(), bytes.size());
    return at;
  }
  void* give_codes(const Bytes& codes) {
    void* const at = rooms_[2].give(c_, codes.size(), 1, 0);
    std::memcpy(at, codes.data(), codes.size());
    return at;
  }
  void same(const void* now, const Bytes& before, const char* name) const {
    if (!before.empty() && std::memcmp(now, before.data(), before.size()))
      fail(c_, std::string(name) + ", an input, was changed");
  }
  static void copy(Bytes& to, const void* from) {
    if (!to.empty()) std::memcpy(to.data(), from, to.size());
  }

  static inline Room rooms_[3];
  const Case& c_;
  const Params& p_;
  const cpu::Call call_;
  const Bytes &x_, &dy_;
  const size_t code_bytes_;
};

constexpr const char* kOperators[] = {"forward", "backward", "apply"};

// Counts in which cases two targets give other bits, and how far they are apart.
void compare_targets(const Case& c, const std::string& pair, int op, const Expected& expected,
                     const Bytes& a, const Bytes& b) {
  const std::string name = pair + ' ' + kOperators[op] + ' ' + name_of(c.type);
  static std::map<std::string, int64_t*> compared;
  int64_t*& same = compared[name];
  if (!same) same = counter((name + " compared").c_str());
  ++*same;
  if (first_difference(c.type, a, b) < 0) return;
  int64_t ulps = -1;
  double apart = 0;
  for (int64_t i = 0; i < int64_t(expected.size.size()); ++i) {
    const double left = get(c.type, a.data(), i), right = get(c.type, b.data(), i);
    if (std::isinf(expected.size[size_t(i)]) || !std::isfinite(left) || !std::isfinite(right))
      continue;
    const int64_t ranks[] = {rank_of(c.type, bits_at(c.type, a.data(), i)),
                             rank_of(c.type, bits_at(c.type, b.data(), i))};
    ulps = std::max(ulps, std::abs(ranks[0] - ranks[1]));
    apart = std::max(apart, roundings_apart(c.type, expected, i, left, right));
  }
  if (ulps < 0) return count(name + " different where a sum overflows");
  if (ulps == 0) return count(name + " different in the sign of a zero");
  count(name + " different");
  count("largest ulps " + name, double(ulps));
  count("largest roundings " + name, apart);
}

// One target: the operators, whole and in shares, against what is right.
Results run_on(const Case& c, const Params& p, const Answer& right, Runner& runner, Random& random,
               const std::string& target, int fill) {
  const std::string on = " on " + target;
  cpu::set_target(target);
  sizes = kSizes[c.tiles];
  const Results r = runner.whole(fill);
  check(c, "y" + on, right.y, r.y);
  if (!p.linear()) {
    const int64_t at = first_wrong_winner(p, right, r.codes.data());
    if (at >= 0) fail(c, "codes" + on + " name another winner of element " + std::to_string(at));
  }
  check(c, "dx" + on, right.dx, r.dx);
  check(c, "y of apply" + on, right.y, r.applied);
  if (c.shares) {
    require_same(c, "y without codes" + on, r.y, runner.without_codes(0x5a));
    sizes = kSizes[random.below(4)];
    const Results cut = runner.in_shares(0x5a, random);
    require_same(c, "y in shares" + on, r.y, cut.y);
    require_same(c, "dx in shares" + on, r.dx, cut.dx);
    require_same(c, "y of apply in shares" + on, r.applied, cut.applied);
    if (r.codes != cut.codes) fail(c, "codes in shares" + on + " differ");
  }
  if (c.noise && !p.linear()) runner.with_noise(random);
  ++*counter(("ran" + on).c_str());
  require_same_but_zeros(c, "y of apply" + on, r.y, r.applied);
  return r;
}

void run(const Case& c) {
  const std::optional<Params> planned = plan(c);
  if (!planned) return;
  const Params& p = *planned;
  const int64_t n = p.batch * p.channels;
  const Bytes x = values(c, c.fill_x, n * p.h.size * p.w.size, 1);
  const Bytes dy = values(c, c.fill_dy, n * p.h.out() * p.w.out(), 2);
  const Answer right = answer(c, p, x.data(), dy.data());
  Runner runner(c, p, x, dy);
  Random random(c.seed + 3);
  cpu::with_arena = c.arena;

  static const auto targets = cpu::usable_targets();
  const size_t n_targets = targets.size(), chosen = c.seed % n_targets;
  if (!c.all_targets) {
    run_on(c, p, right, runner, random, targets[chosen], 0xff);
  } else {
    std::vector<Results> results;
    for (size_t k = 0; k < n_targets; ++k)
      results.push_back(run_on(c, p, right, runner, random, targets[k], k % 2 ? 0x00 : 0xff));
    for (size_t k = 0; k < n_targets; ++k)
      for (size_t other = k + 1; other < n_targets; ++other) {
        const Results &a = results[k], &b = results[other];
        const std::string pair = targets[k] + ' ' + targets[other];
        compare_targets(c, pair, 0, right.y, a.y, b.y);
        compare_targets(c, pair, 1, right.dx, a.dx, b.dx);
        compare_targets(c, pair, 2, right.y, a.applied, b.applied);
        if (a.codes != b.codes) count("codes differ " + pair);
      }
  }
  count_run(c, p, cpu::Call(p, c.type).specialisation());
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::Case c = fuzz::make_case(data, size);
  if (std::getenv("FUZZ_DESCRIBE")) std::fprintf(stderr, "fuzz: case: %s\n", describe(c).c_str());
  fuzz::run(c);
  return 0;
}
