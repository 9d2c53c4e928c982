// Detects forked children: a handler of pthread_atfork sets a flag in each.
#include "cpu/parallel.h"

#include <pthread.h>

namespace fastblur::cpu {
namespace {

bool forked = false;
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

bool is_forked_child() { return forked; }

}  // namespace fastblur::cpu
