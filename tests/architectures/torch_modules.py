"""The modules of `torch.nn`, each where a model would use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from zoo import Net

from architectures.base import architecture, ids, real


@architecture(real(2, 4, 6))
def multihead_attention() -> nn.Module:
    mha = nn.MultiheadAttention(6, 2, batch_first=True)
    return Net(lambda m, x: m.o(m.mha(x, x, x, need_weights=False)[0]), mha=mha, o=nn.Linear(6, 3))


@architecture(real(2, 4, 6), real(2, 3, 5))
def multihead_attention_cross() -> nn.Module:
    """Keys and values of another width, with extra zero and bias keys."""
    mha = nn.MultiheadAttention(6, 2, kdim=5, vdim=5, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    return Net(lambda m, x, y: m.mha(x, y, y)[0], mha=mha)


@architecture(real(2, 4, 6), real(2, 3, 6))
def multihead_attention_fused_cross() -> nn.Module:
    """One fused weight read by two inputs."""
    return Net(lambda m, x, y: m.mha(m.a(x), m.b(y), m.b(y))[0], mha=nn.MultiheadAttention(6, 2, batch_first=True),
               a=nn.Linear(6, 6), b=nn.Linear(6, 6))  # fmt: skip


@architecture(real(2, 4, 6))
def transformer_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 5, dropout=0.0, batch_first=True)
    return Net(lambda m, x: m.head(m.encoder(m.stem(x))), stem=nn.Linear(6, 6), head=nn.Linear(6, 3),
               encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))  # fmt: skip


@architecture(real(2, 4, 6))
def transformer_encoder_layer_norm_first() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 5, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
    return Net(lambda m, x: m.head(m.layer(m.stem(x))), stem=nn.Linear(6, 6), layer=layer, head=nn.Linear(6, 3))


@architecture(real(2, 4, 6))
def transformer_encoder_in_evaluation() -> nn.Module:
    """Where PyTorch has a fast path of one opaque operator, with dropout gone."""
    layer = nn.TransformerEncoderLayer(6, 2, 5, batch_first=True)
    return Net(lambda m, x: m.head(m.encoder(x)), head=nn.Linear(6, 3), encoder=nn.TransformerEncoder(layer, 1)).eval()


@architecture(real(2, 3, 4), real(2, 4, 4))
def transformer_of_torch() -> nn.Module:
    return nn.Transformer(4, 2, 1, 1, 5, dropout=0.0, batch_first=True)


@architecture(real(2, 4, 3))
def rnn_tanh() -> nn.Module:
    return Net(lambda m, x: m.o(m.rnn(x)[0]), rnn=nn.RNN(3, 4, batch_first=True), o=nn.Linear(4, 2))


@architecture(real(2, 4, 3))
def rnn_relu() -> nn.Module:
    return Net(
        lambda m, x: m.o(m.rnn(x)[0]), rnn=nn.RNN(3, 4, nonlinearity="relu", batch_first=True), o=nn.Linear(4, 2)
    )


@architecture(real(2, 4, 3))
def rnn_relu_deep_bidirectional() -> nn.Module:
    rnn = nn.RNN(3, 2, num_layers=2, nonlinearity="relu", batch_first=True, bidirectional=True)
    return Net(lambda m, x: m.o(m.rnn(x)[0].mean(1)), rnn=rnn, o=nn.Linear(4, 2))


@architecture(real(2, 4, 3))
def lstm() -> nn.Module:
    return Net(lambda m, x: m.o(m.rnn(x)[0]), rnn=nn.LSTM(3, 3, batch_first=True), o=nn.Linear(3, 2))


@architecture(real(4, 2, 3))
def lstm_deep_bidirectional_projected() -> nn.Module:
    return Net(lambda m, x: m.o(m.rnn(x)[0]), rnn=nn.LSTM(3, 3, num_layers=2, bidirectional=True, proj_size=2),
               o=nn.Linear(4, 2))  # fmt: skip


@architecture(real(2, 4, 3))
def gru() -> nn.Module:
    return Net(lambda m, x: m.o(m.rnn(x)[1][-1]), rnn=nn.GRU(3, 3, num_layers=2, batch_first=True), o=nn.Linear(3, 2))


@architecture(real(3, 2), real(3, 4), real(3, 4), real(3, 4))
def recurrent_cells() -> nn.Module:
    def forward(m: Net, x: Tensor, a: Tensor, h: Tensor, c: Tensor) -> Tensor:
        return m.o(F.relu(m.rnn(x, a)) + m.gru(x, h)) + m.lstm(x, (h, c))[0]

    return Net(forward, rnn=nn.RNNCell(2, 4, nonlinearity="relu"), gru=nn.GRUCell(2, 4), lstm=nn.LSTMCell(2, 4),
               o=nn.Linear(4, 4))  # fmt: skip


@architecture(ids(6, 3, 4), loss="cross entropy")
def embedding_bag() -> nn.Module:
    return Net(lambda m, x: m.o(m.bag(x)), bag=nn.EmbeddingBag(6, 3, mode="mean"), o=nn.Linear(3, 4))


@architecture(real(4, 3), real(4, 2))
def bilinear() -> nn.Module:
    return Net(
        lambda m, x, y: m.o(F.relu(m.bilinear(m.a(x), m.b(y)))),
        a=nn.Linear(3, 2), b=nn.Linear(2, 3), bilinear=nn.Bilinear(2, 3, 4), o=nn.Linear(4, 2),
    )  # fmt: skip


@architecture(real(3, 2, 3, 3))
def convolutions_transposed() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(2, 4, 2, 2), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, groups=2), nn.ReLU(),
                         nn.Conv2d(4, 2, 3, 2))  # fmt: skip


@architecture(real(3, 2, 4))
def convolutions_of_one_and_three_dimensions() -> nn.Module:
    return Net(
        lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))[:, :, None, None]), a=nn.Conv1d(2, 3, 2),
        b=nn.ConvTranspose1d(3, 2, 2), c=nn.Conv3d(2, 2, (1, 1, 2)),
    )  # fmt: skip


@architecture(real(2, 2, 3, 3))
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 2), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(2, 3, 1), nn.ReLU(),
                         nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 1))  # fmt: skip


@architecture(real(2, 2, 4, 4))
def unfold_and_fold() -> nn.Module:
    """A convolution by hand: patches, a linear layer, and back."""
    return Net(
        lambda m, x: m.o(F.fold(F.relu(m.b(F.unfold(F.relu(m.a(x)), 2, stride=2).mT)).mT, (4, 4), 2, stride=2)),
        a=nn.Conv2d(2, 2, 1), b=nn.Linear(8, 12), o=nn.Conv2d(3, 2, 1),
    )  # fmt: skip


@architecture(real(3, 2, 4, 4))
def upsampling() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 1),
        nn.LeakyReLU(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReflectionPad2d(1), nn.ReLU(),
        nn.Conv2d(3, 2, 3, stride=3),
    )  # fmt: skip


@architecture(real(3, 2, 5, 5))
def padding_of_every_kind() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.ReplicationPad2d(1), nn.ZeroPad2d(1),
        nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="reflect"), nn.ReLU(), nn.ConstantPad2d(1, 0.5),
        nn.Conv2d(3, 2, 3, stride=3),
    )  # fmt: skip


@architecture(real(3, 2, 6, 6))
def pools_of_every_kind() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.ReLU(), nn.LPPool2d(2, 2, 1), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2),
    )  # fmt: skip


@architecture(real(4, 3))
def maxout_by_adaptive_pool() -> nn.Module:
    return Net(lambda m, x: m.b(F.max_pool1d(m.a(x)[:, None], 2)[:, 0]), a=nn.Linear(3, 6), b=nn.Linear(3, 2))


@architecture(real(4, 3))
def activations_that_scale() -> nn.Module:
    """Every activation of torch.nn with a degree, in a chain."""
    layers: list[nn.Module] = [nn.Linear(3, 3)]
    for act in (
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        nn.PReLU(),
        nn.RReLU(0.1, 0.1),
        nn.Threshold(0.0, 0.0),
    ):
        layers += [act, nn.Linear(3, 3, bias=False)]
    return nn.Sequential(*layers)


def pinned(*acts: nn.Module) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(3, 3)]
    for act in acts:
        layers += [act, nn.Linear(3, 3)]
    return nn.Sequential(*layers)


@architecture(real(4, 3))
def activations_that_pin() -> nn.Module:
    return pinned(nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.ELU(), nn.SELU(), nn.CELU(2.0))


@architecture(real(4, 3))
def activations_that_pin_too() -> nn.Module:
    return pinned(nn.Hardtanh(0.0, 1.0), nn.Mish(), nn.Softsign(), nn.Tanhshrink(), nn.LogSigmoid(), nn.Hardtanh(),
                  nn.Hardswish(), nn.Softshrink(0.1), nn.GELU("tanh"), nn.Hardsigmoid())  # fmt: skip


@architecture(real(4, 3))
def gated_linear_unit() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2))


@architecture(real(4, 3), loss="mse")
def softmin_and_log_softmax() -> nn.Module:
    return Net(lambda m, x: m.b(F.softmin(m.a(x), 1)).log_softmax(1), a=nn.Linear(3, 4), b=nn.Linear(4, 3))


@architecture(real(4, 3), real(4, 3))
def cosine_similarity() -> nn.Module:
    return Net(lambda m, x, y: F.cosine_similarity(m.a(x), m.b(y)), a=nn.Linear(3, 4), b=nn.Linear(3, 4))


@architecture(real(4, 3), real(4, 3))
def pairwise_distance() -> nn.Module:
    return Net(lambda m, x, y: F.pairwise_distance(m.a(x), m.b(y), eps=0.0) * m.s, a=nn.Linear(3, 4), b=nn.Linear(3, 4),
               s=())  # fmt: skip


@architecture(real(4, 3), real(5, 3))
def distance_matrix() -> nn.Module:
    return Net(lambda m, x, y: torch.cdist(m.a(x), m.a(y)) * m.s, a=nn.Linear(3, 4), s=())


@architecture(real(4, 3))
def normalized_linear() -> nn.Module:
    """Features and class vectors of unit length (ArcFace, prototypes)."""
    return Net(lambda m, x: 4 * F.linear(F.normalize(m.a(x)), F.normalize(m.w)), a=nn.Linear(3, 4), w=(3, 4))


@architecture(real(4, 3))
def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(),
                         parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))  # fmt: skip


@architecture(real(4, 2, 5))
def weight_norm_convolution() -> nn.Module:
    """Along the input channels, and over the whole tensor."""
    return nn.Sequential(parametrizations.weight_norm(nn.Conv1d(2, 3, 2), dim=1), nn.ReLU(),
                         parametrizations.weight_norm(nn.Conv1d(3, 2, 2), dim=None))  # fmt: skip


@architecture(real(4, 3))
def spectral_norm() -> nn.Module:
    a, b = (parametrizations.spectral_norm(nn.Linear(n, 4)) for n in (3, 4))
    return nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), nn.Linear(4, 2)).eval()


@architecture(real(4, 3))
def spectral_norm_in_training() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2))


@architecture(real(4, 3))
def orthogonal() -> nn.Module:
    turned = parametrizations.orthogonal(nn.Linear(3, 4), orthogonal_map="cayley")
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), turned, nn.ReLU(), nn.Linear(4, 2))


@architecture(real(4, 4))
def norms_of_vectors() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 6), nn.RMSNorm(6), nn.ReLU(), nn.Linear(6, 6),
                         nn.GroupNorm(2, 6), nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))  # fmt: skip


@architecture(real(4, 2, 4, 4))
def norms_of_images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.InstanceNorm2d(4), nn.Conv2d(4, 4, 1), nn.GroupNorm(4, 4), nn.ReLU(), nn.Conv2d(4, 3, 1),
        nn.LayerNorm([3, 3, 3]), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, affine=False),
    )  # fmt: skip


@architecture(real(4, 3, 4, 4))
def local_response_norm() -> nn.Module:
    """The constant inside is no eps: the channel is pinned."""
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), nn.LocalResponseNorm(2, alpha=1.0), nn.Conv2d(4, 2, 1))


@architecture(real(4, 3, 4, 4))
def alpha_and_channel_dropout() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(4, 3, 1), nn.AlphaDropout(0.2),
                         nn.Conv2d(3, 2, 1))  # fmt: skip


@architecture(real(4, 3))
def adaptive_log_softmax() -> nn.Module:
    return Net(lambda m, x: m.head.log_prob(F.relu(m.a(x))), a=nn.Linear(3, 4),
               head=nn.AdaptiveLogSoftmaxWithLoss(4, 7, [2, 4], div_value=2.0, head_bias=True))  # fmt: skip


@architecture(real(2, 4, 3))
def flatten_and_unflatten() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.Flatten(), nn.ReLU(), nn.Unflatten(1, (4, 2, 3)), nn.Linear(3, 3),
                         nn.ChannelShuffle(2), nn.ReLU(), nn.Flatten(2), nn.Linear(6, 2))  # fmt: skip
