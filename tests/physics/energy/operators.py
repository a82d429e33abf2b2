"""One energy for every operator that has a rule: states [B, 6] with entries of any sign to something of theirs.

The key is the operator that the function is there for; `test_discrete_gradient.py` checks that its trace holds it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]
W = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(6, 6).sin()
V = torch.linspace(0.2, 1, 6, dtype=torch.float64)
MASK = torch.tensor([True, False, True, True, False, True])
FOLD, FLIP = torch.tensor([0, 2, 1, 1, 0, 2]), torch.arange(5, -1, -1)
# What this version of torch no longer has. Rules for it stay, for the versions that do.
GONE = {name for name in ("cholesky",) if not hasattr(torch.ops.aten, name)}
ROWS, ONES, THREE = torch.tensor([0, 3, 3, 5]), torch.tensor([1]), torch.tensor([0, 1, 1])


def image(x: Tensor) -> Tensor:
    """[B, 6] as a batch of one-channel images [B, 1, 2, 3]."""
    return x.reshape(-1, 1, 2, 3)


def cube(x: Tensor, n: int) -> Tensor:
    """[B, 6] as a channel of n axes."""
    return x.reshape(-1, 1, *[[6], [2, 3], [1, 2, 3]][n - 1])


def pooled(kind: str, x: Tensor, n: int) -> Tensor:
    """The largest entries of an operator that gives their places too."""
    return getattr(F, f"{kind}{n}d")(cube(x, n), [1, 1, 2][-n:], return_indices=True)[0]


def real(z: Tensor) -> Tensor:
    return torch.view_as_real(z).square()


LINEAR: dict[str, Function] = {
    "add": lambda x: x + V,
    "sub": lambda x: x - V,
    "rsub": lambda x: torch.rsub(x, 1.0),
    "neg": lambda x: -x,
    "positive": torch.positive,
    "div": lambda x: x / 3,
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "cumsum": lambda x: x.cumsum(1),
    "diff": lambda x: x.diff(dim=1),
    "view": lambda x: x.contiguous().view(-1, 2, 3),
    "reshape": lambda x: x.reshape(-1, 3, 2),
    "flatten": lambda x: (x.reshape(-1, 2, 3) * 2).flatten(1),
    "unflatten": lambda x: x.unflatten(1, (2, 3)),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 2, -1),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "broadcast_to": lambda x: x[:, :1].broadcast_to(x.shape),
    "repeat": lambda x: x.repeat(1, 2),
    "tile": lambda x: x.tile(1, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "t": lambda x: (x.t() * 2).t(),
    "numpy_T": lambda x: (x.T * 2).T,
    "mT": lambda x: x.reshape(-1, 2, 3).mT,
    "permute": lambda x: x.reshape(-1, 2, 3).permute(0, 2, 1),
    "transpose": lambda x: x.reshape(-1, 2, 3).transpose(1, 2),
    "movedim": lambda x: x.reshape(-1, 2, 3).movedim(1, 2),
    "swapaxes": lambda x: x.reshape(-1, 2, 3).swapaxes(1, 2),
    "diagonal": lambda x: x.reshape(-1, 2, 3).diagonal(dim1=1, dim2=2),
    "diag_embed": lambda x: x.diag_embed(),
    "roll": lambda x: x.roll(2, 1),
    "flip": lambda x: x.flip(1),
    "slice": lambda x: x[:, 1:4],
    "select": lambda x: x[:, 2],
    "narrow": lambda x: x.narrow(1, 1, 3),
    "split": lambda x: x.split(2, 1)[1],
    "split_with_sizes": lambda x: x.split([1, 5], 1)[1],
    "chunk": lambda x: x.chunk(3, 1)[0] + x.chunk(3, 1)[2],
    "unbind": lambda x: x.unbind(1)[3],
    "unfold": lambda x: x.unfold(1, 3, 1),
    "index": lambda x: x[:, ROWS],
    "index_select": lambda x: x.index_select(1, ROWS),
    "gather": lambda x: x.gather(1, ROWS.expand(len(x), -1)),
    "cat": lambda x: torch.cat([x, 2 * x], 1),
    "stack": lambda x: torch.stack([x, 2 * x], 1),
    "hstack": lambda x: torch.hstack([x, 2 * x]),
    "constant_pad_nd": lambda x: torch.constant_pad_nd(x, [1, 2]),
    "pad": lambda x: F.pad(x.unsqueeze(1), (2, 2), mode="reflect"),
    "avg_pool1d": lambda x: F.avg_pool1d(x.unsqueeze(1), 2),
    "avg_pool2d": lambda x: F.avg_pool2d(image(x), (2, 3)),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(image(x), (1, 3)),
    "avg_pool3d": lambda x: F.avg_pool3d(image(x).unsqueeze(1), (1, 2, 2), 1),
    "adaptive_avg_pool3d": lambda x: torch.ops.aten.adaptive_avg_pool3d(image(x).unsqueeze(1), [1, 2, 2]),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.reshape(-1, 2, 3).mT.contiguous(),
    "to": lambda x: x.to(torch.float64),
    "type_as": lambda x: x.type_as(V),
    "tril": lambda x: x.reshape(-1, 2, 3).tril(),
    "triu": lambda x: x.reshape(-1, 2, 3).triu(),
    "fft_fft": lambda x: real(torch.fft.fft(x)),
    "fft_ifft": lambda x: torch.fft.ifft(x).real,
    "fft_rfft": lambda x: real(torch.fft.rfft(x)),
    "fft_irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x) * V[:4], 6),
    "fft_rfft2": lambda x: real(torch.fft.rfft2(x.reshape(-1, 2, 3))),
    "fft_fftshift": lambda x: torch.fft.fftshift(x, 1),
    "real": lambda x: torch.fft.rfft(x).real,
    "imag": lambda x: torch.fft.rfft(x).imag,
    "view_as_real": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "complex": lambda x: torch.view_as_real(torch.complex(x, 2 * x)),
    "alias": lambda x: torch.ops.aten.alias(x),
    "trace": lambda x: torch.stack([torch.trace(y) for y in x.reshape(-1, 2, 3)]),
    "take": lambda x: torch.take(x, torch.arange(len(x) * 6).reshape(-1, 6).flip(1)),
    "take_along_dim": lambda x: torch.take_along_dim(x, ROWS.expand(len(x), 4), 1),
    "embedding": lambda x: F.embedding(ROWS, x.T.contiguous()).T,
    "index_add": lambda x: x.new_zeros(len(x), 3).index_add(1, FOLD, x),
    "index_copy": lambda x: x.new_zeros(len(x), 6).index_copy(1, FLIP, x),
    "index_put": lambda x: x.new_zeros(3, len(x)).index_put((FOLD,), x.T, accumulate=True).T,
    "scatter": lambda x: x.new_zeros(len(x), 6).scatter(1, FLIP.expand(len(x), 6), x),
    "scatter_add": lambda x: x.new_zeros(len(x), 3).scatter_add(1, FOLD.expand(len(x), 6), x),
    "select_scatter": lambda x: torch.select_scatter(x, 2 * x[:, 0], 1, 3),
    "slice_scatter": lambda x: torch.slice_scatter(x, 2 * x[:, :2], 1, 2, 4),
    "diagonal_scatter": lambda x: torch.diagonal_scatter(x.reshape(-1, 2, 3), 2 * x[:, :2], 1, 1, 2),
    "upsample_bilinear2d": lambda x: F.interpolate(image(x), scale_factor=2, mode="bilinear"),
    "upsample_nearest2d": lambda x: F.interpolate(image(x), scale_factor=2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[:, :4].reshape(-1, 4, 1, 1), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[:, :4].reshape(-1, 1, 2, 2), 2),
    "reflection_pad1d": lambda x: torch.ops.aten.reflection_pad1d(x.unsqueeze(1), [2, 1]),
    "replication_pad1d": lambda x: torch.ops.aten.replication_pad1d(x.unsqueeze(1), [2, 1]),
    "replication_pad2d": lambda x: torch.ops.aten.replication_pad2d(image(x), [1, 1, 1, 1]),
    "reflection_pad2d": lambda x: torch.ops.aten.reflection_pad2d(image(x), [2, 1, 1, 0]),
    "reflection_pad3d": lambda x: torch.ops.aten.reflection_pad3d(image(x).unsqueeze(1), [2, 1, 1, 0, 0, 0]),
    "replication_pad3d": lambda x: torch.ops.aten.replication_pad3d(image(x).unsqueeze(1), [2, 1, 1, 0, 1, 0]),
    "upsample_nearest1d": lambda x: F.interpolate(x.unsqueeze(1), scale_factor=2),
    "upsample_nearest3d": lambda x: F.interpolate(image(x).unsqueeze(1), scale_factor=2),
    "upsample_bicubic2d": lambda x: F.interpolate(image(x), scale_factor=2, mode="bicubic"),
    "upsample_trilinear3d": lambda x: F.interpolate(image(x).unsqueeze(1), scale_factor=2, mode="trilinear"),
    "channel_shuffle": lambda x: F.channel_shuffle(x.reshape(-1, 6, 1), 2),
    "im2col": lambda x: F.unfold(image(x), 2),
    "col2im": lambda x: F.fold(x[:, :4].reshape(-1, 4, 1), (2, 2), 2),
    "upsample_linear1d": lambda x: F.interpolate(x.unsqueeze(1), scale_factor=2, mode="linear"),
    "_unsafe_index": lambda x: torch.ops.aten._unsafe_index(x, [None, ROWS]),
    "_unsafe_view": lambda x: torch.ops.aten._unsafe_view(x.contiguous(), [len(x), 2, 3]),
    "fft_fft2": lambda x: real(torch.fft.fft2(image(x))),
    "fft_ifft2": lambda x: real(torch.fft.ifft2(image(x))),
    "fft_irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(image(x))),
    "fft_fftn": lambda x: real(torch.fft.fftn(image(x), dim=(2, 3))),
    "fft_ifftn": lambda x: real(torch.fft.ifftn(image(x), dim=(2, 3))),
    "fft_rfftn": lambda x: real(torch.fft.rfftn(image(x), dim=(2, 3))),
    "fft_irfftn": lambda x: torch.fft.irfftn(torch.fft.rfftn(image(x), dim=(2, 3)), dim=(2, 3)),
    "fft_ifftshift": lambda x: torch.fft.ifftshift(x, 1),
    "view_as_complex": lambda x: real(torch.view_as_complex(x.reshape(-1, 3, 2))),
}
BILINEAR: dict[str, Function] = {
    "mul": lambda x: x * x.roll(1, 1),
    "matmul": lambda x: x.reshape(-1, 2, 3) @ x.reshape(-1, 3, 2),
    "mm": lambda x: torch.mm(x, W),
    "bmm": lambda x: torch.bmm(x.reshape(-1, 2, 3), x.reshape(-1, 3, 2)),
    "mv": lambda x: torch.mv(x, V),
    "addmm": lambda x: torch.addmm(x, x, W),
    "baddbmm": lambda x: torch.baddbmm(x.new_ones(len(x), 2, 2), x.reshape(-1, 2, 3), x.reshape(-1, 3, 2)),
    "linear": lambda x: F.linear(x, W, V),
    "linalg_cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 3:]),
    "addcmul": lambda x: torch.addcmul(x, x, x.roll(1, 1), value=0.3),
    "lerp": lambda x: torch.lerp(x, x.roll(1, 1), x[:, :1]),
    "conv1d": lambda x: F.conv1d(x.unsqueeze(1), W[:2, None, :3], padding=1),
    "conv2d": lambda x: F.conv2d(image(x), W[None, None, :2, :2]),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x.unsqueeze(1), W[None, :2, :3]),
    "conv_transpose2d": lambda x: F.conv_transpose2d(image(x), W[None, None, :2, :2]),
    "conv3d": lambda x: F.conv3d(image(x).unsqueeze(1), W[None, None, None, :2, :2]),
    "_trilinear": lambda x: torch.ops.aten._trilinear(x, W[None], x, [1], [], [1], [2]),
}
QUADRATIC: dict[str, Function] = {
    "square": torch.square,
    "var": lambda x: x.var(1),
    "mse_loss": lambda x: F.mse_loss(x, x.roll(1, 1), reduction="none"),
}
SECANTS: dict[str, Function] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "exp": lambda x: torch.exp(x / 30),
    "expm1": lambda x: torch.expm1(x / 30),
    "sinh": lambda x: torch.sinh(x / 30),
    "cosh": lambda x: torch.cosh(x / 30),
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": lambda x: torch.tan(torch.sin(x)),
    "atan": torch.atan,
    "log": lambda x: torch.log(0.1 + x * x),
    "log1p": lambda x: torch.log1p(x * x),
    "sqrt": lambda x: torch.sqrt(0.1 + x * x),
    "rsqrt": lambda x: torch.rsqrt(0.1 + x * x),
    "reciprocal": lambda x: torch.reciprocal(0.1 + x * x),
    "relu": torch.relu,
    "abs": torch.abs,
    "erf": torch.erf,
    "softplus": lambda x: F.softplus(x / 6, beta=2.0),
    "pow": lambda x: x**5,
    "asinh": torch.asinh,
    "sinc": torch.sinc,
    "special_entr": lambda x: x + torch.special.entr(torch.relu(x) / 6),  # of 0 too
    "i0": lambda x: torch.i0(torch.tanh(x)),
    "special_i0": lambda x: torch.ops.aten.special_i0(torch.tanh(x)),
    "sign": lambda x: x * torch.sign(x),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
}
SOFTMAX: dict[str, Function] = {
    "softmax": lambda x: F.softmax(x, -1) * V,
    "log_softmax": lambda x: F.log_softmax(x, -1) * V,
    "logsumexp": lambda x: torch.logsumexp(x, 1),
}


def spd(x: Tensor) -> Tensor:
    """[B, 6] as mass matrices [B, 3, 3], well-conditioned at any state."""
    y = torch.tanh(x).reshape(-1, 2, 3)
    return y.mT @ y + torch.eye(3, dtype=x.dtype)


PAIRS: dict[str, Function] = {
    "linalg_inv": lambda x: torch.linalg.inv(spd(x)),
    "inverse": lambda x: torch.inverse(spd(x)),
    "linalg_cholesky": lambda x: torch.linalg.cholesky(spd(x)) + torch.linalg.cholesky(spd(x), upper=True),
    **({} if "cholesky" in GONE else {"cholesky": lambda x: torch.ops.aten.cholesky(spd(x))}),
    "linalg_det": lambda x: torch.linalg.det(spd(x)),
    "det": lambda x: torch.det(spd(x) + W[:3, :3]),
    "where": lambda x: torch.where(x > 0.1, x**2, 1 - x) + torch.where(MASK, x, 2 * x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.5) + x.masked_fill(MASK, 1.5),
    "xlogy": lambda x: torch.xlogy(x, 1 + x * x) + torch.xlogy(torch.relu(x), torch.relu(x)) + torch.xlogy(x, 2.0),
    "special_xlogy": lambda x: x + torch.ops.aten.special_xlogy(torch.relu(x), torch.relu(x.roll(1, 1)) + 1),
    "special_xlog1py": lambda x: torch.special.xlog1py(torch.relu(x), torch.relu(x) - 1),
    "gt": lambda x: x * (x > 0.2),
    "ge": lambda x: x * (x >= x.roll(1, 1)),
    "lt": lambda x: x * (x < 0.2),
    "le": lambda x: x * (x <= 0.2).to(x.dtype),
    "eq": lambda x: x + x * (x == 0.0),
    "ne": lambda x: x * (x != 0.0),
    "logical_and": lambda x: x + x * torch.logical_and(x > 0, x < 1),
    "logical_or": lambda x: x * torch.logical_or(x < 0, x > 1),
    "logical_xor": lambda x: x + x * torch.logical_xor(x > 0, x > 1),
    "logical_not": lambda x: x * torch.logical_not(x > 0),
    "bitwise_and": lambda x: x + x * torch.bitwise_and(x > 0, x < 1),
    "bitwise_or": lambda x: x + x * torch.bitwise_or(x < 0, x > 1),
    "bitwise_xor": lambda x: x + x * torch.bitwise_xor(x > 0, x > 1),
    "bitwise_not": lambda x: x * ~(x > 0),
}
COMPOSITES: dict[str, Function] = {
    "pow": lambda x: (1 + x * x) ** -1.5 + (1 + x * x) ** (1 / 3) + (2 + x * x) ** -2,
    "div": lambda x: x / (1 + x.roll(1, 1) ** 2),
    "bilinear": lambda x: F.bilinear(x, x.roll(1, 1), W.reshape(1, 6, 6).expand(3, 6, 6), W[0, :3]),
    "clamp": lambda x: x.clamp(-0.3, 0.8),
    "clamp_min": lambda x: torch.clamp_min(x, 0.1),
    "clamp_max": lambda x: torch.clamp_max(x, 0.1),
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "prelu": lambda x: F.prelu(x, V),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "maximum": lambda x: torch.maximum(x, x.roll(1, 1)),
    "minimum": lambda x: torch.minimum(x, x.roll(1, 1)),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "log_sigmoid": F.logsigmoid,
    "erfc": torch.erfc,
    "exp2": lambda x: torch.exp2(x / 30),
    "log2": lambda x: torch.log2(0.1 + x * x),
    "log10": lambda x: torch.log10(0.1 + x * x),
    "atanh": lambda x: torch.atanh(0.9 * torch.sin(x)),
    "logaddexp": lambda x: torch.logaddexp(x, x.roll(1, 1)),
    "addcdiv": lambda x: torch.addcdiv(x, x, 1 + x * x, value=0.5),
    "std": lambda x: x.std(1),
    "linalg_vector_norm": lambda x: torch.linalg.vector_norm(x, dim=1) + torch.linalg.vector_norm(x, 1, dim=1),
    "layer_norm": lambda x: F.layer_norm(x, (6,), V, V),
    "group_norm": lambda x: F.group_norm(x.reshape(-1, 6, 1), 2, V, V),
    "batch_norm": lambda x: F.batch_norm(x, V, V, V, V),
    # Its logits are quadratic in the state: of 1e4 at distances of 1e2, of which rounding alone leaves 1e-12.
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(
        x.reshape(-1, 2, 3) / 10, x.reshape(-1, 2, 3) / 10, x.reshape(-1, 2, 3)
    ),
    "dropout": lambda x: F.dropout(x, 0.5, training=False) ** 2,
    "pad": lambda x: F.pad(x.unsqueeze(1), (2, 1), mode="circular") ** 2,
    "relu6": F.relu6,
    "einsum": lambda x: torch.einsum("bi,bj,bi->bj", x, x, x),
    "tensordot": lambda x: torch.tensordot(x, W, 1) ** 2,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "cosine_similarity": lambda x: F.cosine_similarity(x[:, :3], x[:, 3:] + 0.1),
    "prod": lambda x: torch.tanh(x).prod(1),
    "cumprod": lambda x: torch.tanh(x).cumprod(1),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin(1),
    "max": lambda x: x.max(1).values + torch.max(x, x.roll(1, 1)).sum(1),
    "min": lambda x: x.min(1).values + torch.min(x, x.roll(1, 1)).sum(1),
    "linalg_solve": lambda x: torch.linalg.solve(spd(x), x[:, :3, None]) + torch.linalg.solve(spd(x), W[:3, :3]),
    "linalg_solve_triangular": lambda x: torch.linalg.solve_triangular(spd(x), x[:, :3, None], upper=False),
    "cholesky_solve": lambda x: torch.cholesky_solve(x[:, :3, None], torch.linalg.cholesky(spd(x))),
    "linalg_slogdet": lambda x: torch.linalg.slogdet(spd(x))[1],
    "slogdet": lambda x: torch.slogdet(spd(x))[1],
    "logdet": lambda x: torch.logdet(spd(x)),
    "cdist": lambda x: torch.cdist(x.reshape(-1, 3, 2), x.reshape(-1, 3, 2)),
    "pdist": lambda x: torch.stack([F.pdist(y.reshape(3, 2)) for y in x]),
    "huber_loss": lambda x: F.huber_loss(x, x.roll(1, 1), reduction="none"),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, x.roll(1, 1), reduction="none", beta=0.5),
    "glu": lambda x: F.glu(x),
    "softshrink": lambda x: F.softshrink(x),
    "hardshrink": lambda x: F.hardshrink(x),
    "remainder": lambda x: torch.remainder(x, 2.0),
    "frac": torch.frac,
    "instance_norm": lambda x: F.instance_norm(0.1 * x.reshape(-1, 2, 3), eps=0.1),
    "asin": lambda x: torch.asin(0.9 * torch.sin(x)),
    "acos": lambda x: torch.acos(0.9 * torch.sin(x)),
    "acosh": lambda x: torch.acosh(1.1 + x * x),
    "hypot": lambda x: torch.hypot(x, x.roll(1, 1)),
    "logit": lambda x: torch.logit(0.1 + 0.8 * torch.sigmoid(x)) + torch.logit(torch.sigmoid(x), 0.3),
    "atan2": lambda x: torch.atan2(x[:, :3], x[:, 3:]),
    "scatter_reduce": lambda x: (
        x[:, :3].scatter_reduce(1, FOLD.expand(len(x), 6), x, "sum", include_self=False)
        + x[:, :3].scatter_reduce(1, FOLD[:4].expand(len(x), 4), x[:, :4], "mean")
        + x[:, :4].scatter_reduce(1, FOLD.expand(len(x), 6), x, "mean", include_self=False)[:, :3]
    ),
    "index_reduce": lambda x: x[:, :3].index_reduce(1, FOLD, x, "mean", include_self=False),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "max_pool1d": lambda x: F.max_pool1d(x.unsqueeze(1), 2, 1) + F.max_pool1d(x.unsqueeze(1), 3, 1, 1, 2)[..., :1],
    "max_pool2d": lambda x: (
        F.max_pool2d(image(x), 2, padding=1).sum(2) + F.max_pool2d(image(x), 2, ceil_mode=True)[:, 0]
    ),
    "max_pool3d": lambda x: F.max_pool3d(image(x).unsqueeze(1), (1, 2, 2)),
    **{f"max_pool{n}d_with_indices": lambda x, n=n: pooled("max_pool", x, n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": lambda x, n=n: pooled("adaptive_max_pool", x, n) for n in (1, 2, 3)},
    "cross_entropy_loss": lambda x: (
        F.cross_entropy(x, ONES.expand(len(x)), V, label_smoothing=0.2, reduction="none")
        + F.cross_entropy(x, V.expand_as(x), V, label_smoothing=0.2, reduction="none")
        + F.cross_entropy(x.reshape(-1, 2, 3), THREE.expand(len(x), 3), V[:2], ignore_index=1, reduction="none").sum(1)
    ),
    "nll_loss_forward": lambda x: F.nll_loss(x, ONES.expand(len(x)), V, reduction="none"),
    "nll_loss2d_forward": lambda x: F.nll_loss(
        x.reshape(-1, 2, 3), THREE.expand(len(x), 3), V[:2], ignore_index=1, reduction="none"
    ),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy(
        torch.sigmoid(x), V.expand_as(x), V.expand_as(x), reduction="none"
    ),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(
        x, V.expand_as(x), V, reduction="none", pos_weight=V
    ),
    "soft_margin_loss": lambda x: F.soft_margin_loss(x, V.expand_as(x), reduction="none"),
    "multi_margin_loss": lambda x: (
        F.multi_margin_loss(x, ONES.expand(len(x)), weight=V, reduction="none")
        + F.multi_margin_loss(x, ONES.expand(len(x)), p=2, margin=2.0, reduction="none")
    ),
}
