"""The discrete chain rule of every operator: its change between two states as a linear map of its inputs' changes.

    linear      y = A x                 dy = A dx: its own transpose
    bilinear    y = B(x, z)             Leibniz at the midpoint: dy = B(dx, mean z) + B(mean x, dz)
    quadratic   y = Q(x, x)             the derivative at the midpoint, exact for the same reason
    softmax     the softmax of one state and of the other, averaged (see `sweep.py`)
    secant      y_i = f(x_i)            dy_i = f[a_i, b_i] dx_i, the divided difference
    pair        inverses, factors and determinants of matrices, comparisons and choices (see `pair_rules.py`)
    composite   written in operators that have rules (see `composites.py`); also what PyTorch itself composes

An operator is one line. One that is in no table has no rule, and is refused by name: nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable

from neuromech.physics.energy import secants
from neuromech.physics.energy.fused import marked_sigmoid, marked_tanh
from neuromech.physics.energy.secants import Secant

# Linear in all their tensors together. What only chooses, moves, repeats or sums entries is.
LINEAR = set(
    """add sub rsub neg positive div sum mean cumsum diff
    view reshape flatten unflatten squeeze unsqueeze expand expand_as broadcast_to repeat tile repeat_interleave
    t numpy_T mT permute transpose movedim swapaxes diagonal diag_embed roll flip
    slice select narrow split split_with_sizes chunk unbind unfold index index_select gather
    cat stack hstack pad constant_pad_nd avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool2d adaptive_avg_pool3d
    clone contiguous to type_as tril triu alias trace take take_along_dim embedding
    index_add index_copy index_put scatter scatter_add select_scatter slice_scatter diagonal_scatter
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d pixel_shuffle pixel_unshuffle channel_shuffle
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    im2col col2im _unsafe_index _unsafe_view
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
    fft_fftshift fft_ifftshift real imag view_as_real view_as_complex complex""".split()
)
BILINEAR = set(
    """mul matmul mm bmm mv addmm baddbmm linear linalg_cross addcmul lerp
    conv1d conv2d convolution conv_transpose1d conv_transpose2d conv3d _trilinear""".split()
)
QUADRATIC = set("square var mse_loss".split())
SOFTMAX = set("softmax _softmax log_softmax _log_softmax logsumexp".split())

# f[a, b] by the operator's name, given its arguments after the first.
SECANTS: dict[str, Callable[..., Secant]] = {
    "tanh": lambda: marked_tanh,
    "sigmoid": lambda: marked_sigmoid,
    "exp": lambda: secants.exp,
    "expm1": lambda: secants.exp,
    "sinh": lambda: secants.sinh,
    "cosh": lambda: secants.cosh,
    "sin": lambda: secants.sin,
    "cos": lambda: secants.cos,
    "tan": lambda: secants.tan,
    "atan": lambda: secants.atan,
    "log": lambda: secants.log,
    "log1p": lambda: secants.log1p,
    "sqrt": lambda: secants.sqrt,
    "rsqrt": lambda: secants.rsqrt,
    "reciprocal": lambda: secants.reciprocal,
    "relu": lambda: secants.relu,
    "abs": lambda: secants.absolute,
    "erf": lambda: secants.erf,
    "softplus": lambda beta=1.0, threshold=20.0: secants.softplus(beta, threshold),
    "pow": lambda n: secants.power(int(n)),
    "asinh": lambda: secants.asinh,
    "sinc": lambda: secants.sinc,
    "special_entr": lambda: secants.entr,
    "i0": lambda: secants.i0,
    "special_i0": lambda: secants.i0,
    "sign": lambda: secants.jump,
    "floor": lambda: secants.jump,
    "ceil": lambda: secants.jump,
    "round": lambda: secants.jump,
    "trunc": lambda: secants.jump,
}
