// Global memory: who reads and writes what. See trace.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <vector_types.h>

namespace cuda_on_host {

enum class Role : int { input, output };

// Forgets all buffers and launches.
void trace_reset();
// In tracing mode a kernel may touch the buffers only, and must not write to an input.
void trace_buffer(const char* name, Role role, const void* begin, size_t bytes);

void trace_launch(dim3 grid, dim3 block);
void trace_launch_end();

// {"launches": [...], "unwritten": {...}}, as traffic.py reads it.
std::string trace_report();

}  // namespace cuda_on_host
