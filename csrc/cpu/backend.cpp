// Runs a call: takes the kernels of its element type from the target in use, and divides the rows
// among the threads.
#include "cpu/backend.h"

#include <type_traits>
#include <utility>

#include "cpu/codes/layout.h"
#include "cpu/kernels/specialisation.h"
#include "cpu/parallel.h"
#include "cpu/targets/dispatch.h"

namespace fastblur::cpu {
namespace {

constexpr int64_t kGrain = 32768;         // elements that are worth waking a thread
constexpr int64_t kPlanesPerThread = 16;  // from so many on, planes stay whole

// Calls f with the kernels of the target in use, and with a null pointer of the element type.
template <class F>
void with_kernels(Type type, F f) {
  const auto call = [&](auto* of_type) { f(target().kernels(of_type), of_type); };
  switch (type) {
    case Type::f32: return call(static_cast<float*>(nullptr));
    case Type::f64: return call(static_cast<double*>(nullptr));
    case Type::f16: return call(static_cast<Half*>(nullptr));
    case Type::bf16: return call(static_cast<BFloat16*>(nullptr));
  }
}

// Divides the rows of all planes among the threads; a plane has `rows` rows of `row_length`
// elements. If there are enough planes for all threads, each thread gets whole planes. Otherwise
// the cuts may be at any row. Calls f(begin, end), with rows counted over all planes.
template <class F>
void parallel_rows(const Params& p, int64_t rows, int64_t row_length, int threads, F f) {
  const bool whole = p.planes() >= kPlanesPerThread * threads;
  const int64_t together = whole ? rows : 1;
  parallel_for(p.planes() * rows / together, kGrain / (row_length * together) + 1, threads,
               [&](int64_t begin, int64_t end) { f(begin * together, end * together); });
}

}  // namespace

bool Call::forward(const void* x, void* y, uint8_t* codes, int threads) const {
  bool fused = false;
  with_kernels(type_, [&](const auto& kernels, auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    parallel_rows(p_, p_.h.pooled(), code_row_length(p_), threads, [&](int64_t begin, int64_t end) {
      const bool one_pass = kernels.forward(p_, vertical_, static_cast<const T*>(x),
                                            static_cast<T*>(y), codes, begin, end);
      if (begin == 0) fused = one_pass;
    });
  });
  return fused;
}

bool Call::backward(const void* dy, const uint8_t* codes, void* dx, int threads) const {
  bool fused = false;
  with_kernels(type_, [&](const auto& kernels, auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    parallel_rows(p_, p_.h.size, p_.w.size * p_.pixel_stride(), threads,
                  [&](int64_t begin, int64_t end) {
                    const bool one_pass = kernels.backward(p_, vertical_, static_cast<const T*>(dy),
                                                           codes, static_cast<T*>(dx), begin, end);
                    if (begin == 0) fused = one_pass;
                  });
  });
  return fused;
}

void Call::apply(const void* x, const uint8_t* codes, void* y, int threads) const {
  with_kernels(type_, [&](const auto& kernels, auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    parallel_rows(p_, p_.h.pooled(), code_row_length(p_), threads, [&](int64_t begin, int64_t end) {
      kernels.apply(p_, vertical_, static_cast<const T*>(x), codes, static_cast<T*>(y), begin, end);
    });
  });
}

std::string Call::specialisation() const {
  bool forward = false, backward = false;
  with_kernels(type_, [&](const auto& kernels, auto*) {
    forward = kernels.fuses_forward(p_, vertical_), backward = kernels.fuses_backward(p_);
  });
  const auto word = [](bool fused) { return fused ? "fused" : "staged"; };
  std::string text = word(forward);
  if (forward != backward) text = "forward " + text + ", backward " + word(backward);
  const bool pool = specialised_pool(p_.h.pool, p_.w.pool) != 0;
  const bool rows = RowCounts::known(p_.h.n_taps) != 0;
  const bool columns = TapCounts::known(p_.w.n_taps) != 0 && (p_.w.stride <= 2 || p_.channels_last);
  std::string generic;
  for (const auto& [known, name] : {std::pair{pool, "max"}, {rows, "rows"}, {columns, "columns"}})
    if (!known) generic += (generic.empty() ? "; generic " : ", ") + std::string(name);
  return text + generic;
}

}  // namespace fastblur::cpu
