#include "channels_last.cuh"

namespace fastblur::cuda {

template cudaError_t forward_channels_last_as<__nv_bfloat16>(const Params&, Call, const Queue&);
template cudaError_t backward_channels_last_as<__nv_bfloat16>(const Params&, Call, const Queue&);

}  // namespace fastblur::cuda
