// The kernels of one instruction-set level, and what they share: launch arguments and the vertical
// taps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../max_blur_pool.h"
#include "float16.h"

namespace fastblur::cpu {

// B_v and its transpose as sparse lists with the border folded in, rows ascending. Where the
// padding repeats a row, it is listed as often.
class VerticalTaps {
 public:
  struct Tap {
    int64_t row;
    double weight;
  };
  struct List {
    const Tap *begin_, *end_;
    const Tap* begin() const { return begin_; }
    const Tap* end() const { return end_; }
    int64_t size() const { return end_ - begin_; }
  };

  explicit VerticalTaps(const Params& p);
  // The rows of m that row i of y is made of; none, where all of them are zeros of the padding.
  List sources(int64_t i) const { return sources_.row(i); }
  // The rows of y that row u of m reaches.
  List targets(int64_t u) const { return targets_.row(u); }
  int64_t most_targets() const { return most_targets_; }  // wide borders send many rows to one

 private:
  struct Lists {
    std::vector<Tap> taps;
    std::vector<size_t> start = {0};
    List row(int64_t i) const {
      return {taps.data() + start[size_t(i)], taps.data() + start[size_t(i) + 1]};
    }
  };
  Lists sources_, targets_;
  int64_t most_targets_ = 0;
};

// Each kernel does the rows [begin, end) of all units' rows in a line: row u of unit n is
// n * rows_per_unit + u. forward and apply count rows of m, and do the share of rows of y that goes
// with them; backward counts rows of dx. How the rows are cut never changes a result.
template <class T>
struct Kernels {
  // codes may be null: then none are kept.
  void (*forward)(const Params&, const VerticalTaps&, const T* x, T* y, uint8_t* codes,
                  int64_t begin, int64_t end);
  void (*backward)(const Params&, const VerticalTaps&, const T* dy, const uint8_t* codes, T* dx,
                   int64_t begin, int64_t end);
  void (*apply)(const Params&, const VerticalTaps&, const T* x, const uint8_t* codes, T* y,
                int64_t begin, int64_t end);
};

struct Level {
  const char* name;
  bool (*supported)();
  Kernels<float> f32;
  Kernels<double> f64;
  Kernels<Half> f16;
  Kernels<BFloat16> bf16;

  const Kernels<float>& kernels(const float*) const { return f32; }
  const Kernels<double>& kernels(const double*) const { return f64; }
  const Kernels<Half>& kernels(const Half*) const { return f16; }
  const Kernels<BFloat16>& kernels(const BFloat16*) const { return bf16; }
};

namespace generic {
extern const Level level;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Level level;
}
namespace avx512 {
extern const Level level;
}
#endif

}  // namespace fastblur::cpu
