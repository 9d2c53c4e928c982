// ThreadSanitizer sees neither how torch's libgomp, which is not instrumented, starts the threads
// of a parallel region, nor how it waits for them. This stands in front of it and says both:
// what was before the region is before each thread of it, and each thread before what follows.
#define _GNU_SOURCE
#include <dlfcn.h>

void __tsan_acquire(void* address);
void __tsan_release(void* address);

typedef struct {
  void (*body)(void*);
  void* data;
  char begin, end;
} Region;

static void run(void* argument) {
  Region* region = argument;
  __tsan_acquire(&region->begin);
  region->body(region->data);
  __tsan_release(&region->end);
}

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags) {
  static void (*next)(void (*)(void*), void*, unsigned, unsigned);
  if (!next) next = dlsym(RTLD_NEXT, "GOMP_parallel");
  Region region = {body, data, 0, 0};
  __tsan_release(&region.begin);
  next(run, &region, threads, flags);
  __tsan_acquire(&region.end);
}
