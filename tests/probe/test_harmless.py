"""First, do no harm: whatever is instrumented trains to the same bits, and no failure of the instrument ends a run."""

import collections
import gc
import itertools
import random
import threading
import types
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.checkpoint import checkpoint

import neuromech
from neuromech import NeuromechWarning

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def trained(
    build: Callable[[], nn.Module],
    instrumented: bool,
    loss: Callable[[nn.Module], Tensor] | None = None,
    steps: int = 4,
    **options: object,
) -> tuple[list[Tensor], neuromech.Probe | None]:
    """The state of a model after a few steps, and the probe."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = build()
    probe = neuromech.instrument(model, **options) if instrumented else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        (F.cross_entropy(model(X), Y) if loss is None else loss(model)).backward()
        optimizer.step()
    rest = [torch.rand(2), torch.tensor(random.random()), torch.tensor(np.random.rand())]
    return [*model.state_dict().values(), *rest], probe


def same(build: Callable[[], nn.Module], **options: object) -> neuromech.Probe:
    """Trained with and without the instrument: the same bits. Returns the probe."""
    bare, _ = trained(build, False, **options)
    watched, probe = trained(build, True, **options)
    assert all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True))
    assert probe is not None
    return probe


def measures(probe: neuromech.Probe, families: int = 1) -> None:
    assert len(probe.symmetries) >= families
    history = probe.history
    assert history["step"].max() == 4
    assert history["residual"].max() < 2e-5


# -- what a model keeps ---------------------------------------------------------------------------------------------


class Keeper(nn.Module):
    """A net with hidden state: `use(self, x)` reads it, changes it, and returns a number for the output to feel."""

    def __init__(self, use: Callable[["Keeper", Tensor], Tensor | float], **state: object) -> None:
        super().__init__()
        self.net, self.use = plain(), use
        for name, value in state.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.1 * self.use(self, x))


def average(k: Keeper, x: Tensor) -> Tensor:
    k.held[0].mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
    return k.held[0]


def nested(k: Keeper, x: Tensor) -> float:
    k.held["a"][0]["n"] += 1
    return k.held["a"][0]["n"]


def queued(k: Keeper, x: Tensor) -> float:
    k.held.append(len(k.held))
    return float(sum(k.held) % 5)


def array(k: Keeper, x: Tensor) -> float:
    k.held += 1
    return float(k.held[0])


def counted(k: Keeper, x: Tensor) -> float:
    k.held.n += 1
    return float(k.held.n)


def globally(k: Keeper, x: Tensor) -> float:
    return float(next(TICKS))


def on_the_class(k: Keeper, x: Tensor) -> float:
    Slotted.total += 1
    return float(Slotted.total)


class Slotted:
    __slots__ = ("n",)
    total = 0

    def __init__(self) -> None:
        self.n = 0


TICKS: Iterator[int] = itertools.count()


def closure() -> nn.Module:
    n = 0

    def use(k: Keeper, x: Tensor) -> float:
        nonlocal n
        n += 1
        return float(n)

    return Keeper(use)


def in_a_list() -> nn.Module:
    return Keeper(lambda k, x: k.held[0](x), held=[nn.BatchNorm1d(8)])


def counting_hook() -> nn.Module:
    model, seen = plain(), []
    model[0].register_forward_hook(lambda m, a, y: (seen.append(y.dtype), y * (1 + 0.01 * len(seen)))[1])
    return model


def restarted(use: Callable[[Keeper, Tensor], float]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        global TICKS
        TICKS, Slotted.total = itertools.count(), 0
        return Keeper(use)

    return build


HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "torch generator": lambda: Keeper(
        lambda k, x: torch.randn(x.shape, generator=k.held), held=torch.Generator().manual_seed(0)
    ),
    "numpy generator": lambda: Keeper(lambda k, x: float(k.held.random()), held=np.random.default_rng(0)),
    "python generator": lambda: Keeper(lambda k, x: k.held.random(), held=random.Random(0)),
    "global generators": lambda: Keeper(lambda k, x: random.random() + float(np.random.rand()) + torch.rand(8)),
    "tensor in a list": lambda: Keeper(average, held=[torch.zeros(8)]),
    "tensor in a dict": lambda: Keeper(average, held={0: torch.zeros(8)}),
    "module in a list": in_a_list,
    "nested containers": lambda: Keeper(nested, held={"a": [{"n": 0}]}),
    "deque": lambda: Keeper(queued, held=collections.deque(maxlen=3)),
    "numpy array": lambda: Keeper(array, held=np.zeros(2)),
    "iterator": lambda: Keeper(lambda k, x: float(next(k.held)), held=itertools.count()),
    "python iterator": lambda: Keeper(lambda k, x: next(k.held), held=iter([0.1, 0.2, 0.3, 0.4, 0.5])),
    "namespace": lambda: Keeper(counted, held=types.SimpleNamespace(n=0)),
    "slots": lambda: Keeper(counted, held=Slotted()),
    "class attribute": restarted(on_the_class),
    "global": restarted(globally),
    "closure": closure,
    "counting hook": counting_hook,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_state_is_left_alone(name: str) -> None:
    measures(same(HIDDEN[name]))


def test_hooks_modes_and_counters_of_others_see_one_forward() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for instrumented in (False, True):
        model, packed = plain(), []
        if instrumented:
            neuromech.instrument(model)
        saving = torch.autograd.graph.saved_tensors_hooks(lambda t, packed=packed: packed.append(1) or t, lambda t: t)
        with FlopCounterMode(display=False) as flops, saving, torch.profiler.profile() as profile:
            y = model(X)
        events = sorted(e.name for e in profile.events() if e.name.startswith("aten::"))
        counts.append((flops.get_total_flops(), len(packed), events))
        F.cross_entropy(y, Y).backward()
    assert counts[0][:2] == counts[1][:2]
    assert collections.Counter(counts[0][2]) == collections.Counter(counts[1][2])


# -- what cannot be recorded ----------------------------------------------------------------------------------------


class OpaqueOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Callable[[], Tensor]:
        out = self.net(x)
        return lambda: out


class OtherThread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        out = []
        thread = threading.Thread(target=lambda: out.append(self.net(x)))
        thread.start()
        thread.join()
        return out[0]


def test_what_cannot_be_recorded_trains_all_the_same() -> None:
    loss = lambda m: F.cross_entropy(m(X)(), Y)  # noqa: E731
    with pytest.warns(NeuromechWarning):
        probe = same(OpaqueOutput, loss=loss)
    assert probe.history.empty


def test_another_thread() -> None:
    with pytest.warns(NeuromechWarning, match="stands aside"):
        probe = same(OtherThread)
    assert "stands aside" in repr(probe)
    with pytest.raises(neuromech.InstrumentError, match="did not see"):
        _ = probe.symmetries
    assert "stands aside" in " ".join(probe._record.frame("events")["message"])


@pytest.mark.parametrize("build", [plain, OtherThread], ids=["a fault", "standing aside"])
def test_warnings_made_errors_do_not_end_a_run(build: Callable[[], nn.Module], capsys: pytest.CaptureFixture) -> None:
    from neuromech import errors

    torch.manual_seed(0)
    model = build()
    probe = neuromech.instrument(model)
    probe.monitor()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()  # the gradients are never cleared
    assert len(errors.swallowed) == 1
    assert "Warning: NM-" in capsys.readouterr().err
    assert probe.faults.empty == (build is OtherThread)
    errors.swallowed.clear()


def test_strict_raises() -> None:
    with pytest.raises(neuromech.CaptureError, match="did not see"):
        trained(OtherThread, True, strict=True)


def test_a_derivative_inside_of_the_forward() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy, self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), plain()

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
            return self.head(g)

    probe = same(Force)
    assert any("derivative" in o.why for o in probe.symmetries.opaque)
    measures(probe)  # those of the head
    assert not any(name.startswith("energy") for s in probe.symmetries for name in s.parameters)


def test_vmap() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuromechWarning)
        same(plain, loss=lambda m: F.cross_entropy(torch.vmap(m)(X), Y))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_around_the_model(reentrant: bool) -> None:
    x = X.clone().requires_grad_()
    measures(same(plain, loss=lambda m: F.cross_entropy(checkpoint(m, x, use_reentrant=reentrant), Y)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_inside(reentrant: bool) -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = nn.Linear(8, 8), plain()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.rest, self.first(x), use_reentrant=reentrant)

    measures(same(Inside))


@pytest.mark.parametrize("place", ["before", "after", "charges"])
def test_whatever_fails_in_mid_run_is_kept_from_the_run(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuromech.probe.measure import Measurement

    monkeypatch.setattr(Measurement, "before" if place == "before" else "after", lambda *a: 1 / 0)
    with pytest.warns(NeuromechWarning, match="ZeroDivisionError"):
        same(plain)
    with pytest.raises(ZeroDivisionError):
        trained(plain, True, strict=True)


def test_a_probe_that_is_forgotten_in_the_middle_of_a_step_ends_no_step() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer, late = torch.optim.SGD(other.parameters(), lr=0.1), []
    kept = [neuromech.instrument(model)]
    kept[0].monitor()

    def forget(*args: object) -> None:  # as the garbage collector may at any time
        late.append(len(kept))
        kept.clear()
        gc.collect()

    handles = [register_optimizer_step_pre_hook(forget), register_optimizer_step_post_hook(forget)]
    last = register_optimizer_step_pre_hook(lambda *args: None), register_optimizer_step_post_hook(lambda *args: None)
    try:
        for _ in range(2):
            other(torch.ones(4, 3)).sum().backward()
            optimizer.step()
    finally:
        for handle in (*handles, *last):
            handle.remove()
    assert late == [1, 0, 0, 0]


def test_a_probe_that_is_removed_in_the_middle_of_a_step_ends_no_step() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = neuromech.instrument(model, optimizer=optimizer)

    def remove(*args: object) -> None:
        if steps == 2:
            probe.remove()

    optimizer.register_step_pre_hook(lambda *args: None)
    optimizer.register_step_post_hook(remove)
    optimizer.register_step_post_hook(lambda *args: None)
    for steps in range(4):  # noqa: B007
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    assert probe.history["step"].max() == 3
