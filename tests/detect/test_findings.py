"""What people read: reasons, the page, the table; and what programs read: plain data."""

import json
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import CASES, Net

from detect.oracle import find
from neuromech.detect import Findings, find_symmetries

PAGE = """\
5 families of symmetries; independent directions: 6 of scaling and 7 of translation
  the loss was given

translation: a constant can be added to these (and taken from what follows the minus)
  members  what member i moves                              defect  why
        3  conv1.bias[i]                                         #  batch norm bn1 subtracts the mean
        3  fc.weight[:, i]                                       #  the softmax of the loss does not see a common
                                                                    shift
        1  fc.bias                                               #  the softmax of the loss does not see a common
                                                                    shift

scale: these can be multiplied by any positive factor
  members  what member i moves                              defect  why
        3  conv1.weight[i]                                      ~#  batch norm bn1 divides by the standard deviation

rescale: a positive factor on what stands left of the slash is undone by its inverse on the right
  members  what member i moves                              defect  why
        3  bn1.weight[i], bn1.bias[i] / fc.weight[:, i]          #  positive factors pass through ReLU

~ true but for the eps of a norm, which breaks it by this much

never read by the forward: spare.weight, spare.bias"""


def convolution() -> Net:
    return Net(
        lambda m, x: m.fc(F.relu(m.bn1(m.conv1(x))).mean((2, 3))),
        conv1=nn.Conv2d(1, 3, 3), bn1=nn.BatchNorm2d(3), fc=nn.Linear(3, 2), spare=nn.Linear(1, 1),
    )  # fmt: skip


def found() -> Findings:
    return find_symmetries(convolution(), torch.randn(4, 1, 5, 5), F.cross_entropy, torch.tensor([0, 1, 1, 0]))


def test_the_page() -> None:
    """As it should look, but for the defects, which are rounding errors."""
    page = re.sub(r" +(~?)\de[-+]\d\d", r" \1#", str(found()))
    assert page == re.sub(r" +(~?)#", r" \1#", PAGE)


def test_pages_fit_the_screen() -> None:
    for case in CASES:
        page = str(find(case, verify=False))
        assert max(map(len, page.splitlines())) <= 120
        assert "nan" not in page


def test_reasons_name_the_modules() -> None:
    reasons = {s.name: s.reason for s in found()}
    assert reasons == {
        "conv1.weight[i]": "conv1.weight rows are scale-invariant: batch norm bn1 divides by the standard deviation",
        "bn1.weight[i], bn1.bias[i] / fc.weight[:, i]": "a factor on bn1.weight and bn1.bias entries is undone by its "
        "inverse on fc.weight columns: positive factors pass through ReLU",
        "conv1.bias[i]": "conv1.bias entries can be shifted by a constant: batch norm bn1 subtracts the mean",
        "fc.weight[:, i]": "fc.weight columns can be shifted by a constant: the softmax of the loss does not see a "
        "common shift",
        "fc.bias": "fc.bias as a whole can be shifted by a constant: the softmax of the loss does not see a common "
        "shift",
    }


def test_slices_powers_and_scalars_in_words() -> None:
    said = {s.name: s.reason.partition(":")[0] for case in CASES for s in find(case, verify=False)}
    assert said["a.weight[i], a.bias[i] / b.weight[:, i]^2"] == (
        "a factor on a.weight rows and a.bias entries is undone by inverse powers of it on b.weight columns"
    )
    assert said["0.bias.view(2, 2)[i]"] == "0.bias slices along axis 0 of the view (2, 2) can be shifted by a constant"
    assert said["b.weight, b.bias / gain"] == (
        "a factor on b.weight and b.bias as a whole is undone by its inverse on gain"
    )
    assert said["0.weight[i], 0.bias[i] / 4.weight.view(3, 3, 3)[:, i]"].endswith("4.weight columns in 3 blocks of 3")
    assert said["a.bias[i] x10, b.bias[i] x3"] == "a.bias and b.bias entries can be shifted against each other"
    assert said["a.weight[i, j, k, l] - b.weight[i, j, k, l]"] == (
        "a.weight entries can be shifted against b.weight entries"
    )


def test_what_breaks_a_symmetry_is_named() -> None:
    (scale,) = found().symmetries.of(kind="scale")
    assert scale.broken_by == ("eps = 1e-05 of batch norm bn1",)
    assert 0 < scale.defect < 1e-3


def test_plain_data_and_table() -> None:
    some = found()
    again = Findings.from_dict(json.loads(json.dumps(some.to_dict())))
    assert str(again) == str(some)
    assert len(some.table()) == len(some) == 5
    assert [s.name for s in some] == [some[i].name for i in range(5)]
    assert len(some[1:3]) == 2


def test_nothing_found_is_said() -> None:
    nothing = find_symmetries(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)), torch.randn(3, 2))
    assert str(nothing).startswith(
        "0 families of symmetries; independent directions: 0 of scaling and 0 of translation"
    )
    assert nothing.dimension == {"scaling": 0, "translation": 0, "matrix": 0}


class WrittenOut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))


class Residual(nn.Module):
    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.enter, self.last = nn.Linear(4, 4, bias=False), norm()
        self.linear, self.norm = (
            nn.ModuleList(make() for _ in range(2)) for make in (lambda: nn.Linear(4, 4, bias=False), norm)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        for linear, norm in zip(self.linear, self.norm, strict=True):
            x = x + linear(norm(x))
        return self.last(x)


@pytest.mark.parametrize(
    ("norm", "why"),
    [
        (WrittenOut, "norm.0, norm.1 and last divide by the root of squares"),
        (lambda: nn.RMSNorm(4, 0.0, False), "RMS norms norm.0, norm.1 and last divide by the length"),
    ],
)
def test_norms_that_do_the_same_are_named_together(norm: Callable[[], nn.Module], why: str) -> None:
    (stream,) = find_symmetries(Residual(norm), torch.randn(3, 4)).symmetries
    assert stream.reason == f"enter.weight, linear.0.weight and linear.1.weight as a whole are scale-invariant: {why}"


def test_in_one_line() -> None:
    assert repr(found()) == f"<Findings: {PAGE.splitlines()[0]}>"
