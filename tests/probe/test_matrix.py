"""The ways in which people train, each with and without the one line: the same bits, and laws that hold."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from probe.test_harmless import X, Y, plain
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech

Loop = Callable[[nn.Module], None]
STEPS = 4


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **options)


def steps(model: nn.Module, forward: Callable[[Tensor], Tensor] | None = None) -> None:
    optimizer = sgd(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy((forward or model)(X).float(), Y).backward()
        optimizer.step()


def autocast_in_the_loop(model: nn.Module) -> None:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    steps(model, forward)


def autocast_as_a_decorator(model: nn.Module) -> None:
    steps(model, torch.autocast("cpu", torch.bfloat16)(model))


def autocast_patched_in(model: nn.Module) -> None:
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    steps(model)


def scaled(model: nn.Module) -> None:
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**10), sgd(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = model(X)
        scaler.scale(F.cross_entropy(y.float(), Y)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


def accumulated(model: nn.Module) -> None:
    optimizer = sgd(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for i in (0, 2, 4):
            (F.cross_entropy(model(X[i : i + 2]), Y[i : i + 2]) / 3).backward()
        optimizer.step()


def two_optimizers(model: nn.Module) -> None:
    both = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)]
    for _ in range(STEPS):
        F.cross_entropy(model(X), Y).backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()


def one_for_each_parameter(model: nn.Module) -> None:
    each = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step(p: nn.Parameter) -> None:
        each[p].step()
        each[p].zero_grad()

    for p in each:
        p.register_post_accumulate_grad_hook(step)
    for _ in range(STEPS):
        F.cross_entropy(model(X), Y).backward()


def frozen_for_a_while(model: nn.Module) -> None:
    optimizer = sgd(model)
    for i in range(STEPS):
        model[0].requires_grad_(i != 1)
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()


def closures(model: nn.Module) -> None:
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)


LOOPS: dict[str, tuple[Loop, float, int]] = {  # the loop, how exact its laws are, steps of its optimizers
    "autocast in the loop": (autocast_in_the_loop, 5e-3, STEPS),
    "autocast as a decorator": (autocast_as_a_decorator, 5e-3, STEPS),
    "autocast patched into the forward": (autocast_patched_in, 5e-3, STEPS),
    "GradScaler": (scaled, 5e-3, STEPS),
    "accumulation": (accumulated, 2e-6, STEPS),
    "two optimizers": (two_optimizers, 2e-6, 2 * STEPS),
    "an optimizer for each parameter, in backward": (one_for_each_parameter, 2e-6, 4 * STEPS),
    "frozen for a while": (frozen_for_a_while, 2e-6, STEPS),
    "closures": (closures, 2e-6, STEPS),
}


def run(build: Callable[[], nn.Module], loop: Loop, **options: Any) -> neuromech.Probe:
    """The probe of the watched one of two trainings that end in the same weights."""
    out = []
    for instrumented in (False, True):
        torch.manual_seed(0)
        model = build()
        probe = neuromech.instrument(model, strict=True, **options) if instrumented else None
        if probe is not None:
            probe.monitor(allow=("freezing",))
        loop(model)
        out.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))
    assert probe is not None
    probe.remove()
    return probe


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name: str) -> None:
    loop, near, taken = LOOPS[name]
    probe = run(plain, loop)
    rows = probe.history
    assert any(s.kind == "rescale" for s in probe.symmetries)
    assert rows["step"].max() == taken
    assert rows["iteration"].max() == STEPS
    assert rows["residual"].max() < near
    assert probe.faults.empty


@pytest.mark.parametrize("thaws", [True, False], ids=["unfrozen", "frozen"])
def test_symmetries_are_looked_for_anew_when_a_layer_is_unfrozen_or_frozen(thaws: bool) -> None:
    """What a probe of the model as it trains then would find is found; the charges of before go on."""

    def loop(model: nn.Module) -> None:
        optimizer = sgd(model)
        for i in range(2 * STEPS):
            model[0].requires_grad_((i >= STEPS) == thaws)
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()
        models.append(model)

    models: list[nn.Module] = []
    probe = run(plain, loop)
    rows = probe.history[probe.history["member"] == -1]
    begun = rows.groupby("name")["step"].min()
    again = neuromech.instrument(models[-1])
    optimizer = sgd(models[-1])
    for _ in range(2):
        F.cross_entropy(models[-1](X), Y).backward()
        optimizer.step()
    late = {s.name for s in again.symmetries}
    assert late <= {s.name for s in probe.symmetries}
    assert set(begun.index[begun == 0]) | late == {s.name for s in probe.symmetries}
    if thaws:  # freezing takes symmetries away
        assert (begun > 0).any()
    assert set(begun[begun > 0]) <= {STEPS + 2}  # behind the step that showed it
    assert (rows.groupby("name")["step"].max() == 2 * STEPS).all()
    assert rows[rows["name"].isin(late)]["residual"].max() < 2e-6
    assert (probe.events["kind"] == "trainable").sum() == 1
    assert any(tag.startswith("residual/") for tag in probe.scalars())
    last = probe.terms[(probe.terms["member"] == -1) & (probe.terms["step"] == 2 * STEPS)].set_index("name")
    assert last["unexplained"][sorted(late)].abs().max() < 1e-6  # terms count from where each family begins


def test_what_was_found_later_goes_on_to_the_bit_when_resumed() -> None:
    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = plain()
        model[0].requires_grad_(False)
        return model, sgd(model)

    def go(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for i in range(first, last):
            model[0].requires_grad_(i >= 2)
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()

    whole = begun()
    through = neuromech.instrument(whole[0], strict=True)
    go(*whole, 0, 8)
    half = begun()
    with neuromech.instrument(half[0], strict=True) as probe:
        go(*half, 0, 5)
        saved = copy.deepcopy((half[0].state_dict(), half[1].state_dict(), probe.state_dict()))
    rest = begun()
    rest[0].load_state_dict(saved[0])
    rest[1].load_state_dict(saved[1])
    rest[0][0].requires_grad_(True)
    resumed = neuromech.instrument(rest[0], strict=True)
    resumed.load_state_dict(saved[2])
    go(*rest, 5, 8)
    columns = ["step", "symmetry", "member", "iteration", "observed", "exact", "ideal", "flow", "continuous"]
    expected, found = (p.history.query("step > 5")[columns].to_numpy() for p in (through, resumed))
    assert len(set(expected[:, 1])) == len(resumed.symmetries) > 2
    assert (expected == found).all()


def test_sparse_gradients() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def loop(model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(model(Y), Y).backward()
            optimizer.step()

    probe = run(build, loop)
    assert probe.history["residual"].max() < 2e-6
    assert probe.faults.empty


def test_two_networks_in_one_loop() -> None:
    """A generator and its critic: each has a probe, and a forward of one is part of the backward of the other."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
            self.critic = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    out, probes = [], []
    for instrumented in (False, True):
        torch.manual_seed(0)
        both = Both()
        if instrumented:
            probes = [neuromech.instrument(both.maker, strict=True), neuromech.instrument(both.critic, strict=True)]
        makers, critics = sgd(both.maker), sgd(both.critic)
        real, fake = torch.ones(6, dtype=torch.long), torch.zeros(6, dtype=torch.long)
        for _ in range(STEPS):
            made = both.maker(X)
            critics.zero_grad()
            (F.cross_entropy(both.critic(X), real) + F.cross_entropy(both.critic(made.detach()), fake)).backward()
            critics.step()
            makers.zero_grad()
            F.cross_entropy(both.critic(made), real).backward()
            makers.step()
        out.append([p.detach() for p in both.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))
    for probe in probes:
        assert any(s.kind == "rescale" for s in probe.symmetries)
        assert probe.history["step"].max() == STEPS
        assert probe.history["residual"].max() < 2e-6


def test_a_probe_removed_in_mid_run() -> None:
    def loop(model: nn.Module) -> None:
        optimizer = sgd(model)
        for i in range(STEPS):
            if i == 2 and probes:
                probes[-1].remove()
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()

    out, probes = [], []
    for instrumented in (False, True):
        torch.manual_seed(0)
        model = plain()
        if instrumented:
            probes.append(neuromech.instrument(model, strict=True))
        loop(model)
        out.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*out, strict=True))
    assert probes[0].history["step"].max() == 2


def test_a_model_on_meta_is_left_alone() -> None:
    with torch.device("meta"):
        model = plain()
    with pytest.warns(neuromech.NeuromechWarning, match="the meta device have no values"):
        probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(X.to("meta")), Y.to("meta")).backward()
    optimizer.step()
    assert probe.history.empty
