// Compiles the specialised kernels for the contiguous format and float32, in all sizes.
#include "cuda/launch/nchw.cuh"

namespace fastblur::cuda {

template cudaError_t forward_nchw_as<float>(const Params&, Call, const Queue&);
template cudaError_t backward_nchw_as<float>(const Params&, Call, const Queue&);

}  // namespace fastblur::cuda
