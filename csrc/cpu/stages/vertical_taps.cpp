// Makes the lists of vertical_taps.h: first the rows that each row of y reads, then their
// transpose.
#include "cpu/targets/target.h"

#include <algorithm>

namespace fastblur::cpu {

VerticalTaps::VerticalTaps(const Params& p) {
  const Axis& h = p.h;
  const int64_t rows_y = h.out(), rows_m = h.pooled();
  std::vector<Tap> taps;
  for (int64_t i = 0; i < rows_y; ++i) {
    taps.clear();
    for (int a = 0; a < h.n_taps; ++a) {
      const int64_t u = border_source(h.stride * i + a - h.before, rows_m, p.border);
      if (u >= 0) taps.push_back({u, p.taps_h[a]});
    }
    std::stable_sort(taps.begin(), taps.end(), [](Tap a, Tap b) { return a.row < b.row; });
    for (const Tap& tap : taps) sources_.taps.push_back(tap);
    sources_.start.push_back(sources_.taps.size());
  }

  // The transpose is a counting sort: count the taps of each row of m, then sum the counts to
  // find where each row begins.
  outputs_.start.resize(size_t(rows_m) + 1);
  for (const Tap& tap : sources_.taps) ++outputs_.start[size_t(tap.row) + 1];
  for (size_t u = 0; u < size_t(rows_m); ++u) {
    max_outputs_ = std::max(max_outputs_, int64_t(outputs_.start[u + 1]));
    outputs_.start[u + 1] += outputs_.start[u];
  }
  outputs_.taps.resize(sources_.taps.size());
  std::vector<size_t> next(outputs_.start.begin(), outputs_.start.end() - 1);
  for (int64_t i = 0; i < rows_y; ++i)
    for (const Tap& tap : sources(i)) outputs_.taps[next[size_t(tap.row)]++] = {i, tap.weight};
}

}  // namespace fastblur::cpu
