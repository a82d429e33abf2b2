"""Custody: what the last step left of weights and optimizer state, and whether it is still there before the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.hooks import Mark, mark
from neuromech.monitor.checksum import checksums, flipped_bit
from neuromech.monitor.evidence import Edit
from neuromech.monitor.replay import OPERATIONS, Difference, differences
from neuromech.monitor.sample import Sample

CLOCK = "step"
Entry = tuple[str, str]  # parameter, entry of its state


class Found(NamedTuple):
    """The state of one optimizer at one moment, by parameter; `clocks`: how many steps each state counts."""

    tensors: dict[Entry, Tensor]
    clocks: dict[str, float]


@dataclass
class Left:
    """What a step left of the state of an optimizer."""

    sums: dict[Entry, int] = field(default_factory=dict)
    marks: dict[Entry, Mark] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    samples: dict[str, tuple[list[str], Tensor]] = field(default_factory=dict)  # entry -> parameters, their elements


@dataclass(frozen=True)
class Comparison:
    """What was found otherwise than it was left: fields as in `Evidence`."""

    edits: tuple[Edit, ...] = ()
    lost: tuple[str, ...] = ()
    kept: str = ""
    clock: tuple[tuple[str, float, float], ...] = ()
    restored: bool = False


def state_of(optimizer: Optimizer, names: Mapping[Tensor, str]) -> Found:
    """The state that `optimizer` keeps for the parameters `names`."""
    tensors: dict[Entry, Tensor] = {}
    clocks: dict[str, Any] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            for key, x in optimizer.state[p].items() if p in names and p in optimizer.state else ():
                if key == CLOCK:
                    clocks[names[p]] = x
                elif isinstance(x, Tensor):
                    tensors[names[p], key] = x
    return Found(tensors, dict(zip(clocks, _numbers(list(clocks.values())), strict=True)))


class Custody:
    """Keeps checksums of everything that only a step may write to, and samples that tell what happened to it."""

    def __init__(self, params: Mapping[str, Tensor], sample: Sample) -> None:
        self._params, self._sample = params, sample
        self._names = list(params)
        self._itemsize = {name: p.element_size() for name, p in params.items()}
        self._weights: list[int] | None = None
        self._marks: dict[str, Mark] = {}
        self._theta = torch.zeros(0)
        self._vectors: dict[str, dict[str, Tensor]] = {}
        self._left: WeakKeyDictionary[Optimizer, Left] = WeakKeyDictionary()
        self._by: dict[str, Left] = {}  # parameter -> what its last step left, whoever stepped it
        self._restored: dict[str, Any] | None = None

    def check(self, optimizer: Optimizer, found: Found) -> Comparison:
        """Compare the weights and the state of `optimizer` with what was left."""
        if self._restored is not None:
            return self._compare_restored(found)
        if self._weights is None:
            return Comparison()
        n = len(self._names)
        sums = checksums([*self._params.values(), *found.tensors.values()]).tolist()
        edits = self._edited_weights(sums[:n])
        before = self._left.get(optimizer)
        if before is None:
            mine = {name for group in optimizer.param_groups for name in self._known(group["params"])}
            had = {name for name, left in self._by.items() if name in mine and (left.sums or left.clocks)}
            has = {name for name, _ in found.tensors} | found.clocks.keys()
            kept = next((type(o).__name__ for o, left in self._left.items() if left.sums), "")
            return Comparison(edits, tuple(sorted(had - has)), kept)
        now = dict(zip(found.tensors, sums[n:], strict=True))
        lost = sorted({name for name, _ in before.sums.keys() - now.keys()})
        edits += tuple(
            self._edited(name, key, before, now[name, key], found.tensors[name, key])
            for (name, key), old in before.sums.items()
            if (name, key) in now and now[name, key] != old
        )
        clock = _clocks(before.clocks, found.clocks)
        return Comparison(edits, tuple(lost), clock=clock)

    def leave(
        self, optimizer: Optimizer, found: Found, theta: Tensor, vectors: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """A step is done. `theta`: the sampled weights; `vectors`: what an edit may be a multiple of, by parameter."""
        n = len(self._names)
        sums = checksums([*self._params.values(), *found.tensors.values()]).tolist()
        self._weights, self._theta = sums[:n], theta
        self._marks = {name: mark(p) for name, p in self._params.items()}
        self._vectors = {name: dict(v) for name, v in vectors.items()}
        left = Left(
            dict(zip(found.tensors, sums[n:], strict=True)),
            {entry: mark(t) for entry, t in found.tensors.items()},
            found.clocks,
            {key: (list(of), self._sample.read(list(of), of)) for key, of in self._alike(found).items()},
        )
        self._left[optimizer] = left
        self._by |= dict.fromkeys({name for name, _ in left.sums} | left.clocks.keys(), left)
        self._restored = None

    def theta(self, unchanged: bool) -> Tensor:
        """The sampled weights of all parameters: as the last step left them, if they are `unchanged`."""
        if unchanged and self._weights is not None:
            return self._theta
        return self._sample.read(self._names, self._params)

    def state_dict(self) -> dict[str, Any]:
        states = [left for left in self._left.values() if left.sums or left.clocks]
        return {
            "weights": dict(zip(self._names, self._weights or (), strict=False)),
            "state": {f"{name} {key}": s for left in states for (name, key), s in left.sums.items()},
            "clocks": {name: t for left in states for name, t in left.clocks.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next check compares with a saved state."""
        self._restored = state

    def _compare_restored(self, found: Found) -> Comparison:
        assert self._restored is not None
        saved, self._restored = self._restored, None
        sums = dict(zip(self._names, checksums(list(self._params.values())).tolist(), strict=True))
        weights = [Edit(n, "weight") for n, s in saved["weights"].items() if n in sums and sums[n] != s]
        entries = {f"{name} {key}": (name, key) for name, key in found.tensors}
        now = dict(zip(entries, checksums(list(found.tensors.values())).tolist(), strict=True))
        lost = {key.split(" ")[0] for key in saved["state"].keys() - now.keys()}
        state = [Edit(*entries[k]) for k, s in saved["state"].items() if k in now and now[k] != s]
        lost |= saved["clocks"].keys() - found.clocks.keys()
        clock = _clocks(saved["clocks"], found.clocks)
        return Comparison((*weights, *state), tuple(sorted(lost)), clock=clock, restored=True)

    def _alike(self, found: Found) -> dict[str, dict[str, Tensor]]:
        """Entries of the shape of their parameters: entry -> parameter -> tensor."""
        out: dict[str, dict[str, Tensor]] = {}
        for (name, key), t in found.tensors.items():
            if self._like(name, t):
                out.setdefault(key, {})[name] = t
        return out

    def _like(self, name: str, t: Tensor) -> bool:
        return t.shape == self._params[name].shape and t.is_floating_point()

    def _known(self, params: Sequence[Tensor]) -> list[str]:
        mine = {id(p): name for name, p in self._params.items()}
        return [mine[id(p)] for p in params if id(p) in mine]

    def _edited_weights(self, sums: Sequence[int]) -> tuple[Edit, ...]:
        assert self._weights is not None
        off = [i for i, (a, b) in enumerate(zip(self._weights, sums, strict=True)) if a != b]
        if not off:
            return ()
        names, counts = self._names, self._sample.counts(self._names)
        starts = [sum(counts[:i]) for i in off]
        out = []
        for i, start in zip(off, starts, strict=True):
            name = names[i]
            old = self._theta[start : start + counts[i]]
            new = self._sample.read([name], self._params).to(old.device)
            vectors = {**self._vectors.get(name, {}), "weights": old}
            alone = int((old != new).sum()) <= 1
            bit = flipped_bit(self._weights[i], sums[i], self._itemsize[name]) if alone else None
            how = _how(name, "weight", old, new, vectors, self._params[name].dtype)
            out.append(Edit(name, "weight", bit, self._marks[name] != mark(self._params[name]), how))
        return tuple(out)

    def _edited(self, name: str, key: str, left: Left, now: int, t: Tensor) -> Edit:
        entry = name, key
        how, alone = None, True
        names, elements = left.samples.get(key, ([], torch.zeros(0)))
        if name in names and self._like(name, t):
            old = elements.split(self._sample.counts(names))[names.index(name)]
            new = self._sample.read([name], {name: t})
            how = _how(name, key, old, new, {"momentum": old}, t.dtype)
            alone = int((old != new).sum()) <= 1
        bit = flipped_bit(left.sums[entry], now, t.element_size()) if alone else None
        return Edit(name, key, bit, left.marks[entry] != mark(t), how)


def _how(
    name: str, what: str, old: Tensor, new: Tensor, vectors: Mapping[str, Tensor], dtype: torch.dtype
) -> Difference | None:
    eps = torch.full_like(old, torch.finfo(dtype).eps)
    slack = OPERATIONS * eps * old.abs()
    found = differences(what, [name], [len(old)], new - old, slack, vectors, eps)
    return found[0]._replace(share=float((new != old).double().mean())) if found else None


def _clocks(before: Mapping[str, float], now: Mapping[str, float]) -> tuple[tuple[str, float, float], ...]:
    return tuple((name, t, now[name]) for name, t in before.items() if name in now and now[name] != t)


def _numbers(values: Sequence[Any]) -> list[float]:
    if values and all(isinstance(x, Tensor) for x in values):
        return [float(x) for x in torch.stack([x.detach().reshape(()) for x in values]).tolist()]
    return [float(x) for x in values]
