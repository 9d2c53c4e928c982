// The vertical blur B_v and its transpose, row by row, with the border folded in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "params.h"

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
  List outputs(int64_t u) const { return outputs_.row(u); }
  int64_t max_outputs() const { return max_outputs_; }  // wide borders send many rows to one

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
