// Compiles the specialised kernels for the channels_last format and float32, in all sizes.
#include "cuda/launch/nhwc.cuh"

namespace fastblur::cuda {

template cudaError_t forward_nhwc_as<float>(const Params&, Call, const Queue&);
template cudaError_t backward_nhwc_as<float>(const Params&, Call, const Queue&);

}  // namespace fastblur::cuda
