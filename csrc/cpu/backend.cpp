// Threads, and the choice of kernel.
#include "backend.h"

#include <type_traits>
#include <utility>

#include "codes.h"
#include "level_choice.h"
#include "parallel.h"
#include "specialisation.h"

namespace fastblur::cpu {
namespace {

constexpr int64_t kGrain = 32768;        // elements worth waking a thread for
constexpr int64_t kUnitsPerThread = 16;  // for which no unit is cut

// Calls f with the kernels of the level in use, and a null pointer of the element type.
template <class F>
void with_kernels(Type type, F f) {
  const auto call = [&](auto* of_type) { f(level().kernels(of_type), of_type); };
  switch (type) {
    case Type::f32: return call(static_cast<float*>(nullptr));
    case Type::f64: return call(static_cast<double*>(nullptr));
    case Type::f16: return call(static_cast<Half*>(nullptr));
    case Type::bf16: return call(static_cast<BFloat16*>(nullptr));
  }
}

// Splits `rows` rows of `row_length` elements of each unit among the threads: whole units if there
// are enough of them for all threads, else anywhere. f(begin, end).
template <class F>
void parallel_rows(const Params& p, int64_t rows, int64_t row_length, int threads, F f) {
  const bool whole = p.units() >= kUnitsPerThread * threads;
  const int64_t together = whole ? rows : 1;
  parallel_for(p.units() * rows / together, kGrain / (row_length * together) + 1, threads,
               [&](int64_t begin, int64_t end) { f(begin * together, end * together); });
}

}  // namespace

void Call::forward(const void* x, void* y, uint8_t* codes, int threads) const {
  with_kernels(type_, [&](const auto& kernels, auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    parallel_rows(p_, p_.h.pooled(), code_row_length(p_), threads, [&](int64_t begin, int64_t end) {
      kernels.forward(p_, vertical_, static_cast<const T*>(x), static_cast<T*>(y), codes, begin,
                      end);
    });
  });
}

void Call::backward(const void* dy, const uint8_t* codes, void* dx, int threads) const {
  with_kernels(type_, [&](const auto& kernels, auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    parallel_rows(p_, p_.h.size, p_.w.size * p_.step(), threads, [&](int64_t begin, int64_t end) {
      kernels.backward(p_, vertical_, static_cast<const T*>(dy), codes, static_cast<T*>(dx), begin,
                       end);
    });
  });
}

void Call::apply(const void* x, const uint8_t* codes, void* y, int threads) const {
  with_kernels(type_, [&](const auto& kernels, auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    parallel_rows(p_, p_.h.pooled(), code_row_length(p_), threads, [&](int64_t begin, int64_t end) {
      kernels.apply(p_, vertical_, static_cast<const T*>(x), codes, static_cast<T*>(y), begin, end);
    });
  });
}

std::string specialisation(const Params& p, bool channels_last) {
  const bool pool = specialised_pool(p.h.pool, p.w.pool) != 0;
  const bool rows = RowCounts::known(p.h.n_taps) != 0;
  const bool columns = TapCounts::known(p.w.n_taps) != 0 && (p.w.stride <= 2 || channels_last);
  if (pool && rows && columns) return "specialised";
  std::string generic;
  for (const auto& [known, name] : {std::pair{pool, "max"}, {rows, "rows"}, {columns, "columns"}})
    if (!known) generic += (generic.empty() ? "generic in its " : ", ") + std::string(name);
  return generic;
}

}  // namespace fastblur::cpu
