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
ROWS = torch.tensor([0, 3, 3, 5])


def image(x: Tensor) -> Tensor:
    """[B, 6] as a batch of one-channel images [B, 1, 2, 3]."""
    return x.reshape(-1, 1, 2, 3)


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
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.reshape(-1, 2, 3).mT.contiguous(),
    "to": lambda x: x.to(torch.float64),
    "type_as": lambda x: x.type_as(V),
    "tril": lambda x: x.reshape(-1, 2, 3).tril(),
    "triu": lambda x: x.reshape(-1, 2, 3).triu(),
    "where": lambda x: torch.where(MASK, x, 2 * x),
    "masked_fill": lambda x: x.masked_fill(MASK, 1.5),
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
}
SOFTMAX: dict[str, Function] = {
    "softmax": lambda x: F.softmax(x, -1) * V,
    "log_softmax": lambda x: F.log_softmax(x, -1) * V,
    "logsumexp": lambda x: torch.logsumexp(x, 1),
}
COMPOSITES: dict[str, Function] = {
    "pow": lambda x: (1 + x * x) ** -1.5 + (1 + x * x) ** (1 / 3) + (2 + x * x) ** -2,
    "div": lambda x: x / (1 + x.roll(1, 1) ** 2),
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
}
