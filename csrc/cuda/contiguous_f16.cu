#include "contiguous.cuh"

namespace fastblur::cuda {

template cudaError_t forward_contiguous_as<__half>(const Params&, Call, const Queue&);
template cudaError_t backward_contiguous_as<__half>(const Params&, Call, const Queue&);

}  // namespace fastblur::cuda
