"""The certificate: right about nets of known dimension and a deliberate miss, of one mind with the tests' oracle."""

import copy
import dataclasses
import pickle
from fractions import Fraction

import pytest
import torch
from architectures import ARCHITECTURES
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from detect.oracle import DOMAINS, null_spaces
from neuromech.detect import find_symmetries
from neuromech.detect.findings import Findings
from neuromech.errors import DetectionError
from neuromech.symmetry import Symmetry, SymmetrySet, Term

# With normalisers, attention, tables, dropout, recurrences, a routed mixture, and some of whose symmetries we miss.
AGREEMENT = (
    "attention_grouped_query attention_rotary_partial transformer_tied sentence_classifier densenet squeeze_excite "
    "layer_norm_by_hand one_hot_layer parallel_kernels experts_switched experts_batched mlp_powers mlp_mixer "
    "graph_attention rnn_relu lstm embedding_bag weight_norm spectral_norm alpha_and_channel_dropout "
    "coordinate_convolution low_rank_adapters norms_of_images"
).split()


class _Rectified(torch.autograd.Function):
    """ReLU as nobody knows it."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return g * (ctx.saved_tensors[0] > 0)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def found(model: nn.Module | None = None) -> Findings:
    return find_symmetries(model or net(), torch.randn(5, 3))


def totals(findings: Findings) -> dict[str, int]:
    return {d: sum(b.null[d] for b in findings.complete().blocks) for d in DOMAINS}


def test_a_complete_one() -> None:
    certificate = found().complete()
    assert certificate
    first, last = certificate.blocks
    assert set(first.parameters) == {"0.weight", "0.bias", "2.weight"}
    assert first.found == first.null == {"scaling": 4, "translation": 0}
    assert last.parameters == ("2.bias",)
    assert not any(last.null.values())
    assert str(certificate).startswith("complete, by ")
    table = certificate.table()
    assert list(table["found"]) == list(table["null_space"]) == [4]


def test_blocks_are_the_finest_split() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    certificate = found(model).complete()
    assert certificate
    assert {b.parameters: (b.null["scaling"], b.null["translation"]) for b in certificate.blocks} == {
        ("0.weight",): (4, 0),
        ("0.bias",): (0, 4),
        ("3.weight", "3.bias", "5.weight"): (4, 0),
        ("1.weight", "1.bias", "5.bias"): (0, 0),
    }


def test_a_loss_is_sampled_as_it_was_given() -> None:
    y = torch.tensor([0, 1, 0, 1, 1])
    certificate = find_symmetries(net(), torch.randn(5, 3), F.cross_entropy, y).complete()
    assert certificate
    assert [b.null["translation"] for b in certificate.blocks] == [4, 1]


def test_a_miss_is_named_with_its_slices() -> None:
    model = Net(lambda m, x: m.b(_Rectified.apply(m.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    findings = found(model)
    assert findings.opaque
    certificate = findings.complete()
    assert not certificate
    (block,) = (b for b in certificate.blocks if b.missing)
    assert block.found == {"scaling": 0, "translation": 0}
    assert block.null == {"scaling": 4, "translation": 0}
    assert block.missing[2] == "scaling: a.weight[2] by 1, a.bias[2] by 1, b.weight[:, 2] by -1"
    assert "missing" in str(certificate)


def test_what_is_false_is_contradicted() -> None:
    findings = found()
    false = Symmetry("scale", 1, (Term("2.bias", None, Fraction(1)),), "it is a lie")
    certificate = dataclasses.replace(findings, symmetries=SymmetrySet([*findings, false])).complete()
    assert certificate.contradicted == (false.name,)
    assert not certificate


def test_tokens_that_do_not_occur_are_left_out() -> None:
    model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    certificate = find_symmetries(model, torch.tensor([[0, 1, 2], [3, 3, 1]])).complete()
    assert certificate
    assert certificate.notes == (
        "tokens and other whole numbers were drawn from 0 to 3, as in the example",
        "never read on these inputs, and left out: 0.weight[4:6]",
    )


def test_dropout_and_averages_are_drawn_anew() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2))
    assert totals(found(model.train())) == {"scaling": 8, "translation": 4}
    assert totals(found(model.eval())) == {"scaling": 4, "translation": 0}


def test_no_gap_no_verdict() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.relu(m.a(x))) + 1e-8 * m.a.weight.sum()

    certificate = found(Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))).complete()
    assert "no gap" in certificate.undecided
    assert not certificate
    assert str(certificate).startswith("undecided")


def test_what_cannot_be_sampled_is_said() -> None:
    findings = found()
    with pytest.raises(DetectionError, match="samples must be above 26"):
        findings.complete(samples=20)
    with pytest.raises(DetectionError, match="from a record"):
        Findings.from_dict(findings.to_dict()).complete()
    with pytest.raises(DetectionError, match="4,160 trainable elements"):
        found(nn.Linear(3, 1040)).complete()
    findings = find_symmetries(nn.Linear(3, 2, device="meta"), torch.randn(4, 3, device="meta"))
    with pytest.raises(DetectionError, match="meta"):
        findings.complete()


def test_findings_take_no_model_along() -> None:
    for other in (copy.deepcopy(found()), pickle.loads(pickle.dumps(found()))):
        assert len(other) == 1
        with pytest.raises(DetectionError, match="no model"):
            other.complete()


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    findings = found(model)
    torch.set_rng_state(state)
    findings.complete()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", AGREEMENT)
def test_it_agrees_with_the_oracle(name: str) -> None:
    """Written apart from each other: other draws of inputs, another way to turn the eps down."""
    a = ARCHITECTURES[name]
    g = torch.Generator().manual_seed(1)
    examples = [a.example(g) for _ in range(4)]  # all tokens occur in one or the other
    certificate = find_symmetries(a.model(), examples).complete()
    truth = {d: n.dimension for d, n in null_spaces(dataclasses.replace(a, loss="output")).items()}
    print(certificate)
    assert not certificate.undecided
    assert {d: sum(b.null[d] for b in certificate.blocks) for d in DOMAINS} == truth
