// halves TYPE: CUDA's arithmetic with pairs of 16-bit numbers, as compiled for the host.
//
// Reads triples of 16-bit numbers from stdin, each to be both halves of a vector; writes for each
// the results of all the functions that test_runner.py names, 32 bits each.
#include <cstdio>
#include <cstring>

#include "cuda/runtime.h"

namespace {

template <class T>
unsigned bits(const T& value) {
  unsigned result = 0;
  static_assert(sizeof value <= sizeof result);
  std::memcpy(&result, &value, sizeof value);
  return result;
}

__half2 to_two(float low, float high, __half2) { return __floats2half2_rn(low, high); }
__nv_bfloat162 to_two(float low, float high, __nv_bfloat162) {
  return __floats2bfloat162_rn(low, high);
}
float2 to_floats(__half2 v) { return __half22float2(v); }
float2 to_floats(__nv_bfloat162 v) { return __bfloat1622float2(v); }
float one_to_float(__half v) { return __half2float(v); }
float one_to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__half to_one(float v, __half) { return __float2half_rn(v); }
__nv_bfloat16 to_one(float v, __nv_bfloat16) { return __float2bfloat16_rn(v); }

template <class One, class Two>
void compute() {
  unsigned short in[3];
  while (fread(in, sizeof in, 1, stdin) == 1) {
    One one[3];
    std::memcpy(one, in, sizeof in);
    const Two a(one[0], one[1]), b(one[1], one[0]), c(one[2], one[2]);
    const float wide = __uint_as_float(unsigned(in[0]) << 16 | in[1]);
    const unsigned out[] = {
        bits(__hmax2_nan(a, b)),    bits(__hmin2_nan(a, b)),
        bits(__hmax2(a, b)),        bits(__hmin2(a, b)),
        bits(__hadd2(a, b)),        bits(__hsub2(a, b)),
        bits(__hmul2(a, b)),        bits(__hfma2(a, b, c)),
        __heq2_mask(a, b),          __hne2_mask(a, b),
        __hneu2_mask(a, b),         __hgt2_mask(a, b),
        __hgtu2_mask(a, b),         __hge2_mask(a, b),
        __hlt2_mask(a, b),          bits(__hisnan2(a)),
        bits(to_floats(a).x),       bits(to_floats(a).y),
        bits(one_to_float(one[0])), bits(to_two(wide, -wide, Two{})),
        bits(to_one(wide, One{})),
    };
    fwrite(out, sizeof out, 1, stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && !std::strcmp(argv[1], "float16")) compute<__half, __half2>();
  else compute<__nv_bfloat16, __nv_bfloat162>();
}
