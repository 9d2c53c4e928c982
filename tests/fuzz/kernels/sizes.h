// Where the kernels cut a call into bands and tiles. csrc/cpu has constants; build.py puts these
// variables in their place, so that small maps are cut too and one case runs with several sizes.
#pragma once

#include <cstdint>

namespace fuzz {

// A long row is longer than a tile, and tiles are whole words of bits.
struct Sizes {
  int64_t band_of_x, band_of_dm, long_row, tile, rows_of_tiles, rows_of_fused_tiles, rows_of_dm,
      route_elements, large_dx, large_y;
};

extern Sizes sizes;

}  // namespace fuzz
