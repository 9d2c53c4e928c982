// parallel_for: divides a range among the threads of OpenMP. The calling thread does all of a small
// range, and of any range without OpenMP, inside another parallel region or in a forked child.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace fastblur::cpu {

// Whether this process is a forked child. OpenMP's threads exist only in its parent, and GNU OpenMP
// would wait for them forever.
bool is_forked_child();

// Calls f(begin, end) on parts of [0, range), which usually have `grain` elements or more. The team
// always has all `threads` threads: a smaller team would end the others, which PyTorch's operators
// share.
template <class F>
void parallel_for(int64_t range, int64_t grain, int threads, F f) {
  if (range == 0) return;
#if defined(_OPENMP)
  if (threads > 1 && range > grain && !omp_in_parallel() && !is_forked_child()) {
    std::atomic_flag failed = ATOMIC_FLAG_INIT;
    std::exception_ptr failure;
#pragma omp parallel num_threads(threads)
    {
      const int64_t parts = std::min<int64_t>(omp_get_num_threads(), (range - 1) / grain + 1);
      const int64_t length = (range - 1) / parts + 1;
      const int64_t begin = omp_get_thread_num() * length;
      try {
        if (begin < range) f(begin, std::min(range, begin + length));
      } catch (...) {
        if (!failed.test_and_set()) failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    return;
  }
#endif
  f(0, range);
}

}  // namespace fastblur::cpu
