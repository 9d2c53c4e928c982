#include "kernels.h"

namespace fastblur::cpu {

VerticalTaps::VerticalTaps(const Params& p) {
  const Axis& h = p.h;
  const int64_t rows_y = h.out(), rows_m = h.pooled();
  const auto for_each_tap = [&](auto f) {
    for (int64_t i = 0; i < rows_y; ++i) {
      for (int a = 0; a < h.n_taps; ++a) {
        const int64_t u = border_source(h.stride * i + a - h.before, rows_m, p.border);
        if (u >= 0) f(size_t(u), Tap{i, p.taps_h[a]});
      }
    }
  };
  // By counting: first how many each row has, then where each row's begin.
  start_.assign(size_t(rows_m) + 1, 0);
  for_each_tap([&](size_t u, Tap) { ++start_[u + 1]; });
  for (size_t u = 0; u < size_t(rows_m); ++u) {
    if (start_[u + 1] > most_targets_) most_targets_ = start_[u + 1];
    start_[u + 1] += start_[u];
  }
  taps_.resize(size_t(start_.back()));
  std::vector<int64_t> next(start_.begin(), start_.end() - 1);
  for_each_tap([&](size_t u, Tap tap) { taps_[size_t(next[u]++)] = tap; });
}

}  // namespace fastblur::cpu
