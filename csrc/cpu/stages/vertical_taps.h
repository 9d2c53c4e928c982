// The vertical blur B_v and its transpose as lists: the rows of m that each row of y reads, and the
// rows of y that each row of m reaches. The border mode is folded in: a padding row counts as the
// row of m that it copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "params.h"

namespace fastblur::cpu {

// Each list has its rows in ascending order. A row that the padding repeats is listed once for each
// copy.
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
  // The rows of m that row i of y reads. The list is empty if all of them are zero padding.
  List sources(int64_t i) const { return sources_.row(i); }
  // The rows of y that row u of m reaches.
  List outputs(int64_t u) const { return outputs_.row(u); }
  // The size of the longest list of outputs: large if a wide border copies one row many times.
  int64_t max_outputs() const { return max_outputs_; }

 private:
  struct Lists {
    std::vector<Tap> taps;
    std::vector<size_t> start = {0};
    List row(int64_t i) const {
      return {taps.data() + start[size_t(i)], taps.data() + start[size_t(i) + 1]};
    }
  };
  Lists sources_, outputs_;
  int64_t max_outputs_ = 0;
};

}  // namespace fastblur::cpu
