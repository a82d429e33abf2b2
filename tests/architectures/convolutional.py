"""Convolutional networks of the field, in small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from architectures.base import architecture, real


def conv_bn(
    a: int, b: int, k: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    conv = nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(b), *([act] if act else []))


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def head(c: int, classes: int = 3) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, classes)]


IMAGE = real(4, 2, 5, 5)


@architecture(IMAGE, loss="cross entropy")
def resnet_basic() -> nn.Module:
    return nn.Sequential(
        conv_bn(2, 3, act=nn.ReLU()),
        Residual(nn.Sequential(conv_bn(3, 3, act=nn.ReLU()), conv_bn(3, 3)), act=nn.ReLU()),
        Residual(nn.Sequential(conv_bn(3, 4, stride=2, act=nn.ReLU()), conv_bn(4, 4)), conv_bn(3, 4, 1, 2), nn.ReLU()),
        *head(4),
    )


@architecture(IMAGE, loss="cross entropy")
def resnet_preactivation() -> nn.Module:
    def block(c: int) -> nn.Module:
        return Residual(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 2, 3, padding=1, bias=False),
                                      nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, c, 3, padding=1)))  # fmt: skip

    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), block(3), block(3), nn.BatchNorm2d(3), nn.ReLU(), *head(3))


@architecture(IMAGE, loss="cross entropy")
def resnext_bottleneck() -> nn.Module:
    body = nn.Sequential(conv_bn(4, 4, 1, act=nn.ReLU()), conv_bn(4, 4, groups=2, act=nn.ReLU()), conv_bn(4, 4, 1))
    return nn.Sequential(conv_bn(2, 4, act=nn.ReLU()), Residual(body, act=nn.ReLU()), *head(4))


@architecture(IMAGE, loss="cross entropy")
def densenet() -> nn.Module:
    """Every layer reads the concatenation of all before it."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        for layer in (m.a, m.b):
            x = torch.cat([x, layer(x)], 1)
        return m.head(x)

    def layer(c: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 2, 3, padding=1, bias=False))

    return Net(forward, stem=nn.Conv2d(2, 3, 3, bias=False), a=layer(3), b=layer(5),
               head=nn.Sequential(nn.BatchNorm2d(7), nn.ReLU(), *head(7)))  # fmt: skip


@architecture(IMAGE, loss="cross entropy")
def inception() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.head(torch.cat([m.a(x), m.b(x), m.c(F.max_pool2d(x, 3, 1, 1))], dim=1))

    return Net(
        forward, a=nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), c=nn.Sequential(nn.Conv2d(2, 1, 1), nn.ReLU()),
        b=nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()),
        head=nn.Sequential(*head(6)),
    )  # fmt: skip


@architecture(IMAGE)
def unet() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        skip = m.down(x)
        y = m.up(m.deep(F.max_pool2d(skip, 2)))
        return m.out(torch.cat([F.pad(y, (0, 1, 0, 1)), skip], dim=1))

    return Net(
        forward, down=nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()),
        deep=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), up=nn.ConvTranspose2d(4, 3, 2, 2),
        out=nn.Sequential(nn.Conv2d(6, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)),
    )  # fmt: skip


@architecture(IMAGE, loss="cross entropy")
def mobilenet_inverted_residual() -> nn.Module:
    """Linear bottlenecks: the shift of the last batch norm of a block reaches only 1x1 convolutions and norms."""
    block = nn.Sequential(conv_bn(3, 4, 1, act=nn.ReLU()), conv_bn(4, 4, groups=4, act=nn.ReLU()), conv_bn(4, 3, 1))
    return nn.Sequential(conv_bn(2, 3, stride=2, act=nn.ReLU()), conv_bn(3, 3, 1), Residual(block),
                         conv_bn(3, 4, 1, act=nn.ReLU()), *head(4))  # fmt: skip


@architecture(IMAGE, loss="cross entropy")
def mobilenet_relu6() -> nn.Module:
    block = nn.Sequential(conv_bn(3, 4, 1, act=nn.ReLU6()), conv_bn(4, 4, groups=4, act=nn.ReLU6()), conv_bn(4, 3, 1))
    return nn.Sequential(conv_bn(2, 3, act=nn.ReLU6()), Residual(block), *head(3))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, gate: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1), gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))


@architecture(IMAGE, loss="cross entropy")
def squeeze_excite() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), SqueezeExcite(4, nn.Sigmoid()), nn.Conv2d(4, 3, 1), nn.ReLU(),
                         *head(3))  # fmt: skip


@architecture(IMAGE, loss="cross entropy")
def efficientnet_block() -> nn.Module:
    block = nn.Sequential(conv_bn(3, 4, 1, act=nn.SiLU()), conv_bn(4, 4, groups=4, act=nn.SiLU()),
                          SqueezeExcite(4, nn.Sigmoid()), conv_bn(4, 3, 1))  # fmt: skip
    return nn.Sequential(conv_bn(2, 3, act=nn.SiLU()), Residual(block), conv_bn(3, 3, 1, act=nn.SiLU()), *head(3))


@architecture(IMAGE, loss="cross entropy")
def shufflenet() -> nn.Module:
    """Half of the channels pass, half are convolved, then all are shuffled."""

    def forward(m: Net, x: Tensor) -> Tensor:
        a, b = m.stem(x).chunk(2, dim=1)
        y = torch.cat([a, m.branch(b)], dim=1)
        y = y.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
        return m.head(y)

    branch = nn.Sequential(conv_bn(2, 2, groups=2), conv_bn(2, 2, 1, act=nn.ReLU()))
    return Net(forward, stem=conv_bn(2, 4, act=nn.ReLU()), branch=branch,
               head=nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), *head(3)))  # fmt: skip


@architecture(IMAGE, loss="cross entropy")
def repvgg() -> nn.Module:
    """Three branches into one sum, the identity among them."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = F.relu(m.stem(x))
        return m.head(F.relu(m.a(x) + m.b(x) + m.c(x)))

    return Net(forward, stem=nn.Conv2d(2, 3, 3), a=conv_bn(3, 3), b=conv_bn(3, 3, 1), c=nn.BatchNorm2d(3),
               head=nn.Sequential(*head(3)))  # fmt: skip


@architecture(IMAGE, loss="cross entropy")
def res2net() -> nn.Module:
    """The channels in groups, each fed with the result of the one before."""

    def forward(m: Net, x: Tensor) -> Tensor:
        parts = torch.split(m.stem(x), 2, dim=1)
        y = [parts[0], m.a(parts[1])]
        y.append(m.b(y[-1] + parts[2]))
        return m.head(torch.cat(y, 1))

    a, b = (conv_bn(2, 2, act=nn.ReLU()) for _ in range(2))
    return Net(forward, stem=conv_bn(2, 6, act=nn.ReLU()), a=a, b=b, head=nn.Sequential(*head(6)))


@architecture(IMAGE, loss="cross entropy")
def convnext_block() -> nn.Module:
    """Depthwise convolution, layer norm over channels, layer scale."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.norm0(m.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
        y = m.gamma * m.b(F.gelu(m.a(y)))
        return m.head(x + y.permute(0, 3, 1, 2))

    return Net(
        forward, stem=nn.Conv2d(2, 4, 2, 2), norm0=nn.LayerNorm(4), depthwise=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        norm=nn.LayerNorm(4), a=nn.Linear(4, 5), b=nn.Linear(5, 4), gamma=(4,),
        head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3)),
    )  # fmt: skip


@architecture(IMAGE, loss="cross entropy")
def weight_standardisation() -> nn.Module:
    """The rows of a kernel are standardised before they are used; group norm follows."""

    def standard(w: Tensor) -> Tensor:
        w = w - w.mean((1, 2, 3), keepdim=True)
        return w / w.std((1, 2, 3), keepdim=True)

    return Net(lambda m, x: m.head(F.relu(m.norm(F.conv2d(x, standard(m.w), m.b)))), w=(4, 2, 3, 3), b=(4,),
               norm=nn.GroupNorm(2, 4), head=nn.Sequential(*head(4)))  # fmt: skip


@architecture(IMAGE)
def normalizer_free() -> nn.Module:
    """Scaled weight standardisation with a gain, and residual branches weighted by a number (NFNet)."""

    def standard(w: Tensor, gain: Tensor) -> Tensor:
        variance, mean = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return (w - mean) * torch.rsqrt(variance * w[0].numel() + 1e-14) * gain

    def forward(m: Net, x: Tensor) -> Tensor:
        x = F.conv2d(x, standard(m.w0, m.g0), m.b0, padding=1)
        y = F.conv2d(F.relu(x) * 1.7, standard(m.w1, m.g1), m.b1, padding=1)
        return m.head(F.relu(x + 0.2 * m.skip * y))

    return Net(forward, w0=(3, 2, 3, 3), g0=(3, 1, 1, 1), b0=(3,), w1=(3, 3, 3, 3), g1=(3, 1, 1, 1), b1=(3,), skip=(),
               head=nn.Sequential(*head(3)))  # fmt: skip


@architecture(IMAGE)
def crelu_network() -> nn.Module:
    """Both signs of every channel, concatenated."""
    return Net(
        lambda m, x: m.b(F.relu(torch.cat([h := m.a(x), -h], dim=1))), a=nn.Conv2d(2, 3, 3), b=nn.Conv2d(6, 2, 2)
    )


@architecture(IMAGE)
def coordinate_convolution() -> nn.Module:
    """Two constant channels beside the features: these stay free, those are fixed."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        line = torch.linspace(-1, 1, 3, dtype=x.dtype)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(4, -1, -1, -1)
        return m.b(torch.cat([h, grid], dim=1))

    return Net(forward, a=nn.Conv2d(2, 3, 3), b=nn.Conv2d(5, 2, 2))


@architecture(IMAGE)
def spatial_attention() -> nn.Module:
    """A map of mean and maximum over channels gates all of them (CBAM)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        seen = torch.cat([h.mean(1, keepdim=True), h.max(1, keepdim=True).values], dim=1)
        return m.o(h * torch.sigmoid(m.gate(seen)))

    return Net(forward, a=nn.Conv2d(2, 3, 3), gate=nn.Conv2d(2, 1, 3, padding=1), o=nn.Conv2d(3, 2, 1))


@architecture(real(3, 2, 8))
def temporal_convolution() -> nn.Module:
    """Causal, dilated, gated (WaveNet)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        skips = 0.0
        for k, (f, g, out) in enumerate(((m.f0, m.g0, m.o0), (m.f1, m.g1, m.o1))):
            padded = F.pad(x, (2**k, 0))
            y = torch.tanh(f(padded)) * torch.sigmoid(g(padded))
            skips = skips + out(y)
            x = x + out(y)
        return m.head(F.relu(skips))

    dilated = {f"{n}{k}": nn.Conv1d(3, 3, 2, dilation=2**k) for n in "fg" for k in range(2)}
    return Net(forward, stem=nn.Conv1d(2, 3, 1), **dilated, o0=nn.Conv1d(3, 3, 1), o1=nn.Conv1d(3, 3, 1),
               head=nn.Conv1d(3, 2, 1))  # fmt: skip


@architecture(real(3, 2, 4, 4))
def stylegan_modulated_convolution() -> nn.Module:
    """A kernel scaled by a style for every sample, then demodulated."""

    def forward(m: Net, x: Tensor) -> Tensor:
        style = m.style(x.mean((2, 3)))
        w = m.w * style[:, None, :, None, None]
        w = w * torch.rsqrt(w.square().sum((2, 3, 4), keepdim=True) + 1e-14)
        y = F.conv2d(x.reshape(1, 6, 4, 4), w.reshape(9, 2, 2, 2), groups=3).reshape(3, 3, 3, 3)
        return m.o(F.leaky_relu(y + m.b))

    return Net(forward, style=nn.Linear(2, 2), w=(1, 3, 2, 2, 2), b=(3, 1, 1), o=nn.Conv2d(3, 2, 1))
