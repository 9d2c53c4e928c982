// How the runner sets the executor up, and asks it for what happened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cuda_on_host {

// In which order the threads of a block, and the blocks of a launch, take their turns.
enum class Order : int { forward, reverse, random };

struct Options {
  Order order = Order::forward;
  uint64_t seed = 1;
  bool trace = false;
  bool dry = false;  // check and record launches, run nothing
  // If not 0: of launches over so many images, only the blocks of the last one run, and perhaps one
  // that it shares with the image before.
  uint64_t last_of = 0;
};

void set_options(const Options& options);
void set_label(const std::string& label);  // goes with every error

// Where the executor is, for traces and errors.
uint64_t block_number();   // in the launch
uint64_t thread_number();  // in the launch

}  // namespace cuda_on_host
