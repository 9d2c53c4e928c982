#include "kernels.h"

namespace fastblur::cpu {

VerticalTaps::VerticalTaps(const Params& p) {
  const Axis& h = p.h;
  const int64_t rows_y = h.out(), rows_m = h.pooled();
  gather_.reserve(size_t(rows_y * h.n_taps));
  gather_start_.reserve(size_t(rows_y) + 1);
  gather_start_.push_back(0);
  scatter_start_.assign(size_t(rows_m) + 1, 0);
  for (int64_t i = 0; i < rows_y; ++i) {
    for (int a = 0; a < h.n_taps; ++a) {
      const int64_t u = border_source(h.stride * i + a - h.before, rows_m, p.border);
      if (u < 0) continue;
      gather_.push_back({u, p.taps_h[a]});
      ++scatter_start_[size_t(u) + 1];
    }
    gather_start_.push_back(int64_t(gather_.size()));
  }
  // The transpose, by counting: first how many each row has, then where each row's begin.
  for (int64_t u = 0; u < rows_m; ++u) {
    const int64_t count = scatter_start_[size_t(u) + 1];
    if (count > most_targets_) most_targets_ = count;
    scatter_start_[size_t(u) + 1] += scatter_start_[size_t(u)];
  }
  scatter_.resize(gather_.size());
  std::vector<int64_t> next(scatter_start_.begin(), scatter_start_.end() - 1);
  for (int64_t i = 0; i < rows_y; ++i)
    for (const Tap& tap : sources(i)) scatter_[size_t(next[size_t(tap.row)]++)] = {i, tap.weight};
}

}  // namespace fastblur::cpu
