// The position of a lane in the contiguous kernels, and its accesses to a row in memory.
//
// A lane owns a group of columns, which is one 16-byte vector of x. The groups of all planes form
// one line of Call::units units. A warp processes 30 of them: its two outer lanes repeat their
// neighbours' work, so each of the other 30 gets its neighbouring columns by a shuffle.
#pragma once

#include "cuda/kernels/call.h"
#include "cuda/kernels/values.cuh"

namespace fastblur::cuda {

constexpr int kThreads = 128;
constexpr int kOwners = 30;  // lanes of a warp that own a group

// Blocks per multiprocessor for __launch_bounds__: as many as the registers allow without spills.
// kStoresCodes: forward that keeps codes, which takes the most.
template <class T, class S, bool kStoresCodes = false>
constexpr int kBlocks = S::kPool == 1                    ? (sizeof(T) == 4 ? 8 : 5)
                        : sizeof(T) == 2                 ? (S::kPool == 3 && S::kTaps == 5 ? 3 : 4)
                        : S::kPool == 3 || S::kTaps == 5 ? 5
                        : kStoresCodes || S::kRelu       ? 7
                                                         : 8;

template <class T>
constexpr int kColumns = 16 / sizeof(T);  // columns of a group

struct Lane {
  int64_t plane, image, channel;
  int group;
  bool owns;         // false: repeats another lane's work and stores nothing
  bool first, last;  // the group is the first, or the last, of a row of x
  bool edge;         // the group has the last column of m

  FASTBLUR_DEVICE explicit Lane(const Call& c) {
    const int lane = threadIdx.x % kWarp;
    const int64_t warp = part_of_units(c) * (kThreads / kWarp) + threadIdx.x / kWarp;
    int64_t unit = warp * kOwners + lane - 1;
    owns = lane != 0 && lane != kWarp - 1 && unit < c.units;
    unit = unit < 0 ? 0 : unit < c.units ? unit : c.units - 1;
    if (c.units <= 0x7fffffff) {  // 64-bit division is slow
      plane = unsigned(unit) / unsigned(c.groups);
      image = unsigned(plane) / unsigned(c.channels);
    } else {
      plane = unit / c.groups;
      image = plane / c.channels;
    }
    group = int(unit - plane * c.groups);
    channel = plane - image * c.channels;
    first = group == 0;
    last = group == c.groups - 1;
    edge = group == c.last_group;
  }
};

// Goes through a lane's N columns of a row, from column `begin` of `size` on, in accesses of `each`
// columns: a power of two, such that rows are whole aligned vectors of so many. Calls move(j, v)
// for every access in the row, where j is its first column of the N and v an empty vector of its
// type.
template <class T, int kEach, int N, class Move>
FASTBLUR_DEVICE void for_each_access(int begin, int size, int each, Move move) {
  if constexpr (kEach > 1)
    if (each < kEach)  // anew: conditions that a loop keeps would take registers from its fast form
      return for_each_access<T, kEach / 2, N>(anew(begin), size, each, move);
#pragma unroll
  for (int j = 0; j < N; j += kEach)
    if (kEach == N || begin + j < size) move(j, Vector<T, kEach>());
}

// Loads a lane's columns from `at`. Those outside the row become `fill`.
template <int N, class T>
FASTBLUR_DEVICE Vector<T, N> load_columns(const T* at, int begin, int size, int each, T fill) {
  Vector<T, N> v;
#pragma unroll
  for (int j = 0; j < N; ++j) v.at[j] = fill;
  for_each_access<T, N, N>(begin, size, each, [&](int j, auto part) {
    part = load(reinterpret_cast<const decltype(part)*>(at + j));
    memcpy(v.at + j, &part, sizeof part);
  });
  return v;
}

template <class T, int N>
FASTBLUR_DEVICE void store_columns(T* at, int begin, int size, int each, const float (&value)[N]) {
  Vector<T, N> v;
#pragma unroll
  for (int j = 0; j < N; ++j) v.at[j] = from_float<T>(value[j]);
  for_each_access<T, N, N>(begin, size, each, [&](int j, auto part) {
    memcpy(&part, v.at + j, sizeof part);
    store(reinterpret_cast<decltype(part)*>(at + j), part);
  });
}

}  // namespace fastblur::cuda
