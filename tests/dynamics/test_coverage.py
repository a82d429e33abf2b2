"""A fixed random share of the members: what is measured of them is what a full measurement says, and less is read."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from neuromech import InstrumentError, RecordError, Symmetry, Term
from neuromech.dynamics import Block, Forms, drawn, share_of
from neuromech.symmetry import Part

X, Y = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 3


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Linear(6, 40), nn.BatchNorm1d(40), nn.ReLU()
    return nn.Sequential(*first, nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 3)).to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    x = X.to(next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), Y).backward()
        optimizer.step()


def instrumented(coverage: float, make: Any = None, **options: Any) -> tuple[neuromech.Probe, nn.Module]:
    model = net()
    probe = neuromech.instrument(model, coverage=coverage, members=None, **options)
    train(model, make(model.parameters()) if make else torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return probe, model


class TestDrawn:
    @settings(max_examples=60, deadline=None)
    @given(n=st.integers(1, 300), share=st.floats(0.001, 1.0))
    def test_a_run_of_the_share_and_at_least_one(self, n: int, share: float) -> None:
        (run,) = drawn([Symmetry("scale", n, (Term("w", 0, 1),))], share)  # type: ignore[arg-type]
        assert len(run) == min(n, max(1, round(share * n)))
        assert 0 <= run.start < run.stop <= n
        assert run.step == 1

    def test_each_run_is_as_likely_and_families_differ(self) -> None:
        families = [Symmetry("scale", 50, (Term("w", 0, 1),))] * 4000  # type: ignore[arg-type]
        found = Counter(m.start for m in drawn(families, 0.1))
        assert set(found) == set(range(0, 50, 5))
        assert max(abs(n - 400) for n in found.values()) < 6 * math.sqrt(400 * 0.9)

    def test_torch_generators_are_left_alone(self) -> None:
        before = torch.get_rng_state()
        drawn([Symmetry("scale", 50, (Term("w", 0, 1),))], 0.1)  # type: ignore[arg-type]
        assert torch.equal(before, torch.get_rng_state())

    def test_share(self) -> None:
        families = [Symmetry("scale", n, (Term("w", 0, 1),)) for n in (10, 30)]  # type: ignore[arg-type]
        assert share_of(families, [range(5), range(5)]) == 0.25
        assert share_of([], []) == 1.0


TERMS = {
    "rows": ((20, 7), Term("w", 0, 1)),  # type: ignore[arg-type]
    "columns": ((7, 20), Term("w", 1, 1)),  # type: ignore[arg-type]
    "filters": ((6, 20, 3, 3), Term("w", 1, 1)),  # type: ignore[arg-type]
    "elements": ((20,), Term("w", 0, 1)),  # type: ignore[arg-type]
    "grid": ((4, 3, 5), Term("w", (0, 2), 1)),  # type: ignore[arg-type]
    "grid, turned": ((5, 3, 4), Term("w", (2, 0), 1)),  # type: ignore[arg-type]
    "view": ((3, 20 * 4), Term("w", 1, 1, Part((3, 20, 4)))),  # type: ignore[arg-type]
    "fused": ((3 * 20, 7), Term("w", 1, 1, Part((3, 20, 7), ((0, 1),)))),  # type: ignore[arg-type]
    "block": ((30, 7), Term("w", 0, 1, Part((20, 7), (), (7, 1), 14))),  # type: ignore[arg-type]
    "block of columns": ((9, 30), Term("w", 1, 1, Part((9, 20), (), (30, 1), 4))),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", TERMS)
def test_forms_of_a_run_are_those_of_all(name: str, linear: bool) -> None:
    """Every way in which a term lies in a parameter, every run, laid out in memory as it may be."""
    shape, term = TERMS[name]
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    size = term.size(shape)
    s = Symmetry("translation" if linear else "scale", size, (term,))
    whole = Forms([Block.of(s)], {"w": w})([({"w": w}, {"w": u})])
    for start, stop in ((0, 1), (0, 5), (7, 12), (size - 3, size), (0, size)):
        some = Forms([Block.of(s, range(start, stop))], {"w": w})
        for a in (w, w.transpose(0, -1).contiguous().transpose(0, -1), w.to_sparse()):
            torch.testing.assert_close(some([({"w": a}, {"w": u})]), whole[:, start:stop], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "make",
    [
        None,
        lambda p: torch.optim.AdamW(p, lr=1e-2),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
        lambda p: torch.optim.RMSprop(p, lr=1e-3),
    ],
)
def test_measured_members_are_those_of_a_full_measurement(make: Any) -> None:
    whole, bare = instrumented(1.0, make)
    some, model = instrumented(0.2, make)
    for p, q in zip(bare.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    full = whole._recorded().frame("charges").set_index(["step", "symmetry", "member"])
    part = some._recorded().frame("charges").set_index(["step", "symmetry", "member"])
    single = part[part.index.get_level_values("member") >= 0]
    assert 0 < len(single) < 0.35 * (full.index.get_level_values("member") >= 0).sum()
    assert len(single) == sum(
        s["measured"][1] - s["measured"][0] if "measured" in s else s["size"]
        for s in some._recorded().meta["symmetries"]
    ) * len(set(full.index.get_level_values("step")))
    for column in ("observed", "exact", "ideal", "flow", "continuous", "scale"):
        torch.testing.assert_close(
            torch.tensor(single[column].to_numpy()),
            torch.tensor(full.loc[single.index, column].to_numpy()),
            rtol=1e-12,
            atol=1e-13,
            equal_nan=True,
        )
    sums = single.groupby(level=["step", "symmetry"])["observed"].sum()
    family = part[part.index.get_level_values("member") < 0]["observed"].droplevel("member")
    torch.testing.assert_close(torch.tensor(sums.to_numpy()), torch.tensor(family.sort_index().to_numpy()))


def read(model: nn.Module, coverage: float) -> int:
    """Elements that go into the products of one look at weights, gradients and buffers."""
    from neuromech.dynamics.forms import sums

    seen = Counter[str]()
    original = sums.Reader.read

    def counting(self: Any, r: Any) -> Tensor | None:
        found = original(self, r)
        seen["elements"] += 0 if found is None else found.numel()
        return found

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    probe = neuromech.instrument(model, coverage=coverage)
    train(model, optimizer, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums.Reader, "read", counting)
        train(model, optimizer, 1)
    probe.remove()
    return seen["elements"]


def test_less_is_read() -> None:
    whole, tenth = read(net(torch.float32), 1.0), read(net(torch.float32), 0.1)
    assert 0 < tenth < 0.35 * whole  # rows of one family and columns of the next are both a tenth of a weight


class TestState:
    def test_goes_on_with_the_same_members(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        probe = neuromech.instrument(model, coverage=0.2, members=None)
        train(model, optimizer, 3)
        state = probe.state_dict()
        probe.remove()
        monkeypatch.setattr("neuromech.dynamics.coverage.SEED", 5)
        monkeypatch.setattr(neuromech.dynamics.drawn, "__defaults__", (5,))  # a later version may draw otherwise
        again = neuromech.instrument(model, coverage=0.2, members=None)
        again.load_state_dict(state)
        train(model, optimizer, 3)
        straight, _ = net(), None
        monkeypatch.undo()
        whole = neuromech.instrument(straight, coverage=0.2, members=None)
        train(straight, torch.optim.SGD(straight.parameters(), lr=0.1, momentum=0.9), 6)
        a, b = (p._recorded().frame("charges").query("step == 6").reset_index(drop=True) for p in (again, whole))
        columns = ["symmetry", "member", "observed", "exact", "flow", "residual"]
        assert a[columns].equals(b[columns])
        assert [s.get("measured") for s in again._recorded().meta["symmetries"]] == [
            s.get("measured") for s in whole._recorded().meta["symmetries"]
        ]

    def test_another_share_is_refused(self) -> None:
        probe, model = instrumented(0.2)
        state = probe.state_dict()
        probe.remove()
        with pytest.raises(RecordError, match=r"coverage=0\.2.*instrument\(\.\.\., coverage=0\.2\)"):
            neuromech.instrument(model).load_state_dict(state)


@pytest.mark.parametrize("bad", [0, -0.1, 1.01, math.nan, math.inf, "half", None, True, 10])
def test_what_is_no_share(bad: Any) -> None:
    with pytest.raises(InstrumentError, match="coverage="):
        neuromech.instrument(net(), coverage=bad)


class TestSaid:
    def test_by_probe_meta_and_report(self, tmp_path: Any) -> None:
        probe, _ = instrumented(0.2, run=tmp_path / "run")
        assert "measures 0.2 of the members" in repr(probe)
        assert probe._recorded().meta["coverage"] == 0.2
        page = probe.report().read_text()
        assert "coverage=0.2" in page
        assert "nothing is said of the others" in page

    def test_not_where_all_are_measured(self) -> None:
        probe, _ = instrumented(1.0)
        assert "of the members" not in repr(probe)
        assert not any("measured" in s for s in probe._recorded().meta["symmetries"])

    def test_by_the_monitor(self) -> None:
        model = net(torch.float32)
        probe = neuromech.instrument(model, coverage=0.2)
        monitor = probe.monitor("raise")
        train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 12)
        assert monitor.faults == []
        assert "judged by 0.2" in repr(monitor)
        assert 0.1 < probe._recorded().meta["monitor"]["laws_judged_by"] < 0.35

    def test_a_broken_law_says_how_many_were_seen(self) -> None:
        from neuromech.monitor.diagnosis import diagnose
        from neuromech.monitor.evidence import Broken, Evidence

        broken = Broken(0, "w[i]", ("w",), "scale", 4, 2, 9.0, 40)
        (suspect, *_) = diagnose(Evidence(laws=(broken,)))
        assert "2 of 4 measured members (of 40)" in str(suspect)

    def test_an_edit_of_measured_weights_breaks_a_law_of_them(self) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        probe = neuromech.instrument(model, coverage=0.2)
        monitor = probe.monitor(lambda fault: None)
        train(model, optimizer)
        with torch.no_grad():
            model[3].weight.mul_(1.01)
        train(model, optimizer)
        assert [f.cause for f in monitor.faults] == ["edited weights"]
