// One run of the CUDA kernels on the host: the same cases as cpu.cpp, through the executor of
// tests/cuda_on_host, against the same oracle.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "cuda/launch/launch.h"
#include "executor.h"
#include "oracle/compare.h"
#include "oracle/numbers.h"
#include "oracle/oracle.h"
#include "oracle/report.h"
#include "tensor.h"

namespace fuzz {
namespace {

using namespace fastblur;
using cuda_on_host::Role;
using cuda_on_host::Tensor;

// Launches of one case. The first defect of memory ends the process with a word of the executor.
class Runner {
 public:
  Runner(const Case& c, const Params& p, const Bytes& x, const Bytes& dy, Random& random)
      : c_(c),
        p_(p),
        x_(x),
        dy_(dy),
        queue_{nullptr, 1 + int(random.below(24))},
        offset_(c.place == Place::inside ? size_t(c.offset) * c.element() : 0),
        code_bytes_(size_t(p.batch * cuda::code_words_per_image(p, c.type)) * 4) {
    cuda_on_host::Options options;
    options.order = cuda_on_host::Order(random.below(3));
    options.seed = c.seed;
    options.trace = random.below(4) == 0;
    cuda_on_host::set_options(options);
    cuda_on_host::set_label(describe(c));
  }

  Bytes forward(bool with_codes, Bytes* codes) {
    cuda_on_host::trace_reset();
    const bool room = with_codes || cuda::forward_needs_codes(p_, c_.type);
    const Tensor x = input("x", x_, offset_), y("y", Role::output, dy_.size(), offset_);
    const Tensor kept("codes", Role::output, room ? code_bytes_ : 0, 0);
    auto* const to = static_cast<uint32_t*>(kept.size() ? kept.address() : nullptr);
    finish(cuda::forward(p_, c_.type, x.address(), y.address(), to, queue_), {&x, &y, &kept});
    if (codes) *codes = bytes_of(kept);
    return bytes_of(y);
  }
  Bytes backward(const Bytes& code_bytes) {
    cuda_on_host::trace_reset();
    const Tensor dy = input("dy", dy_, offset_), dx("dx", Role::output, x_.size(), offset_);
    const Tensor codes = input("codes", code_bytes, 0);
    finish(cuda::backward(p_, c_.type, dy.address(), static_cast<uint32_t*>(codes.address()),
                          dx.address(), queue_),
           {&dy, &dx, &codes});
    return bytes_of(dx);
  }
  Bytes apply(const Bytes& code_bytes) {
    cuda_on_host::trace_reset();
    const Tensor x = input("x", x_, offset_), y("y", Role::output, dy_.size(), offset_);
    const Tensor codes = input("codes", code_bytes, 0);
    finish(cuda::apply(p_, c_.type, x.address(), static_cast<uint32_t*>(codes.address()),
                       y.address(), queue_),
           {&x, &y, &codes});
    return bytes_of(y);
  }

 private:
  static Tensor input(const char* name, const Bytes& bytes, size_t offset) {
    return {name, Role::input, bytes.size(), offset, reinterpret_cast<const char*>(bytes.data())};
  }
  static Bytes bytes_of(const Tensor& t) {
    const auto* const data = static_cast<const uint8_t*>(t.data());
    return {data, data + t.size()};
  }
  void finish(cudaError_t error, std::initializer_list<const Tensor*> tensors) const {
    if (error != cudaSuccess) fail(c_, "a launch fails: error " + std::to_string(int(error)));
    for (const Tensor* tensor : tensors) tensor->check();
  }

  const Case& c_;
  const Params& p_;
  const Bytes &x_, &dy_;
  const cuda::Queue queue_;
  const size_t offset_, code_bytes_;
};

// Most cases that have specialised kernels get the sizes of those that are built: see defines.py of
// tests/cuda_on_host.
Case with_built_sizes(Case c) {
  const int64_t k = c.pool.size() == 2 ? c.pool[0] : 0;
  const bool square = k >= 1 && k <= 3 && c.pool[1] == k && c.stride == std::vector<int64_t>{2, 2};
  if (!square || c.seed % 8 == 0 || !is_valid(c)) return c;
  const size_t f = k == 2 ? 4 : 3;
  c.taps_h.resize(f, 0.5), c.taps_w.resize(f, 0.25);
  c.pad = {k == 3, k == 3};
  for (size_t i = 0; i < 4; ++i)
    c.blur_pad[i] = i % 2 ? std::min(c.blur_pad[i], int64_t(f / 2)) : int64_t(f - 1) / 2;
  make_valid(c);
  return c;
}

// Open: the specialised kernels for channels_last sum the weights of a column that the border
// repeats before they use them (ColumnWeights). So an infinity there gives an infinity, where taps
// of both signs, or a zero, give NaN. Returns the result with NaN in place of such an infinity.
Bytes without_summed_weights(const Case& c, const Params& p, const Expected& expected, Bytes got) {
  const auto of_sign = [&](int sign) {
    return std::all_of(c.taps_w.begin(), c.taps_w.end(),
                       [&](double tap) { return float(tap) * float(sign) > 0; });
  };
  const bool repeats = (p.w.before || p.w.after) && c.mode != "zeros";
  const bool specialised = std::string(cuda::specialisation(p, c.type)) == "specialised";
  if (!specialised || !p.channels_last || !repeats || of_sign(1) || of_sign(-1)) return got;
  for (size_t i = 0; i < expected.low.size(); ++i)
    if (std::isnan(expected.low[i]) && std::isinf(get(c.type, got.data(), int64_t(i))))
      put(c.type, got.data(), int64_t(i), NAN);
  return got;
}

void run(const Case& c) {
  const std::optional<Params> planned = plan(c);
  if (!planned) return;
  const Params& p = *planned;
  const int64_t n = p.batch * p.channels;
  const Bytes x = values(c, c.fill_x, n * p.h.size * p.w.size, 1);
  const Bytes dy = values(c, c.fill_dy, n * p.h.out() * p.w.out(), 2);
  const Answer right = answer(c, p, x.data(), dy.data());
  const auto check_result = [&](const char* what, const Expected& expected, const Bytes& got) {
    check(c, what, expected, without_summed_weights(c, p, expected, got));
  };
  Random random(c.seed + 3);
  Runner runner(c, p, x, dy, random);
  Bytes codes;
  const Bytes y = runner.forward(true, &codes);
  check_result("y on CUDA", right.y, y);
  require_same(c, "y without codes on CUDA", y, runner.forward(false, nullptr));
  check_result("dx on CUDA", right.dx, runner.backward(codes));
  check_result("y of apply on CUDA", right.y, runner.apply(codes));
  // The order of threads and the number of multiprocessors change no bit.
  require_same(c, "y of another launch on CUDA", y,
               Runner(c, p, x, dy, random).forward(true, nullptr));
  count_run(c, p, cuda::specialisation(p, c.type));
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::Case c = fuzz::with_built_sizes(fuzz::make_case(data, size));
  if (std::getenv("FUZZ_DESCRIBE")) std::fprintf(stderr, "fuzz: case: %s\n", describe(c).c_str());
  fuzz::run(c);
  return 0;
}
