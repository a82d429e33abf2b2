"""The kernels: sums of products over a step's weights, gradients and buffers, taken chunk by chunk."""
