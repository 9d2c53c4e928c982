// A case: all that one run needs, made from the fuzzer's bytes. The same bytes always make the same
// case, so a case is kept as its bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan.h"

namespace fuzz {

using fastblur::Input;
using fastblur::Params;
using fastblur::Type;

// Reads numbers from the front of the input; after its end, zeros.
class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : at_(data), left_(size) {}
  unsigned byte() { return left_ == 0 ? 0 : (--left_, *at_++); }
  // In [0, n), n <= 256.
  int below(int n) { return int(byte() % unsigned(n)); }
  bool one_in(int n) { return below(n) == n - 1; }  // not for zeros
  uint64_t number() {
    uint64_t bits = 0;
    for (int i = 0; i < 4; ++i) bits = bits << 8 | byte();
    return bits;
  }

 private:
  const uint8_t* at_;
  size_t left_;
};

// xorshift64*: values and cuts, from a seed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1) {}
  uint64_t bits() {
    state_ ^= state_ >> 12, state_ ^= state_ << 25, state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }
  int64_t below(int64_t n) { return int64_t((bits() >> 11) % uint64_t(n)); }
  double unit() { return double(bits() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// Where a tensor lies in its memory: its end at a guard page, its beginning at one, or some
// elements behind a multiple of 64 bytes.
enum class Place : int { end, start, inside };

enum class Fill : int { normal, ties, specials, one_special, many, huge, tiny, any_bits, count };

struct Case {
  // The arguments of Plan, in its order, and the input.
  std::vector<int64_t> pool, stride, pad;
  std::vector<double> taps_h, taps_w;
  std::vector<int64_t> blur_pad;
  std::string mode;
  bool relu = false;
  Input input{};
  // What runs.
  Type type = Type::f32;
  Fill fill_x = Fill::normal, fill_dy = Fill::normal;
  Place place = Place::end;
  int offset = 0;            // elements, for Place::inside
  int threads = 1;           // as asked of the backend
  int tiles = 0;             // which sizes of bands and tiles; see sizes.h
  bool all_targets = false;  // otherwise one, by the seed
  bool shares = false;       // in shares of rows too, and without codes
  bool noise = false;        // codes that no forward wrote run too
  bool arena = false;  // scratch from the arena of csrc/cpu/arena.cpp, otherwise block by block
  uint64_t seed = 0;   // of the values and the cuts

  size_t element() const { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }
};

Case make_case(const uint8_t* data, size_t size);

// Changes sizes and paddings until they are valid, for arguments that are nearly so.
void make_valid(Case& c);

// Whether the documents say that the arguments and the input are valid, judged apart from Plan.
bool is_valid(const Case& c);

// Whether the tensors and the padded maps are small enough to run.
bool is_small(const Params& p);

// The case in words.
std::string describe(const Case& c);

// The bits of `n` elements of the case's type.
std::vector<uint8_t> values(const Case& c, Fill fill, int64_t n, uint64_t salt);

}  // namespace fuzz
