// What a case should give: plain loops, one element at a time, in a wider type than the kernels'
// (double; long double for float64). Nothing of csrc/ but the sizes of a call has a part in it.
#pragma once

#include <cstdint>
#include <vector>

#include "input/case.h"

namespace fuzz {

// The results that are right, by element: all numbers from `low` to `high`, or NaN if these are.
struct Expected {
  std::vector<double> low, high;
  // The sum of the absolute values of the terms, which is what the error of any order of summation
  // is relative to. If the kernels' arithmetic may overflow, it is infinite and any result is
  // right.
  std::vector<double> size;
  double roundings = 0;  // of the longest sum
  double tiny = 0;       // absolute error of results and terms below the normal range
};

struct Answer {
  Expected y, dx;
  // By element of m in memory order: the row and the column of the winner in its window; row
  // pool_h if ReLU left none.
  std::vector<uint8_t> row, column;
};

Answer answer(const Case& c, const Params& p, const void* x, const void* dy);

// The first element of `got` that is not as expected, or -1.
int64_t first_wrong(Type type, const Expected& expected, const void* got);

// How far two results are apart, in roundings of the sum of the terms' absolute values.
double roundings_apart(Type type, const Expected& expected, int64_t i, double a, double b);

// The first winner that the CPU's codes name wrongly, or -1. The layout of the codes is written
// down in csrc/cpu/codes/layout.h; this reads it bit by bit.
int64_t first_wrong_winner(const Params& p, const Answer& answer, const uint8_t* codes);

}  // namespace fuzz
