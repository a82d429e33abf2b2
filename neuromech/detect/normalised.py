"""Which parameters are normalised, proven: the loss does not see the length of such a tensor, nor perhaps of its rows.

A tensor is scale-invariant if scaling it alone is a combination of the symmetries that were found. In exponents, which
add up where symmetries are applied one after the other, that is a small linear system: each family, all of its members
alike, is a column; each piece of a parameter that families tell apart is a row; the tensor is 1 and all else 0. Where
a linear layer feeds another one that a norm follows, the first is normalised too: by a scaling that is passed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from neuromech.detect.find import find_symmetries
from neuromech.detect.findings import Findings
from neuromech.errors import DetectionError
from neuromech.params import named_parameters
from neuromech.symmetry import Symmetry, Term

if TYPE_CHECKING:
    import pandas as pd

EXACT = 1e-9  # coefficients are small fractions; what is no solution misses by more


@dataclass(frozen=True)
class Normalisation:
    """What is known of one trainable parameter.

    `normalised`: the whole tensor may be scaled by itself. `finest`: what may be scaled by itself, "tensor", "rows"
    (axis 0), "axis k", "blocks", or "". `jointly`: the parameters with which it may be scaled, if not alone. `reason`:
    the families that prove it. `approximate`: what breaks the invariance a little, as the eps of a norm.
    """

    name: str
    shape: tuple[int, ...]
    normalised: bool
    finest: str
    jointly: tuple[str, ...]
    reason: str
    approximate: str


class ParameterGroups(Mapping[str, tuple[str, ...]]):
    """The trainable parameters of a model, by name, in sets: "normalised" and "rest", "matrices" (two axes or more)
    and "vectors" (fewer). `rows`: what is known of each; `findings`: the symmetries behind it."""

    def __init__(self, params: Mapping[str, nn.Parameter], rows: Sequence[Normalisation], findings: Findings) -> None:
        self._params, self.rows, self.findings = dict(params), tuple(rows), findings
        self._sets = {
            "normalised": tuple(r.name for r in self.rows if r.normalised),
            "rest": tuple(r.name for r in self.rows if not r.normalised),
            "matrices": tuple(r.name for r in self.rows if len(r.shape) > 1),
            "vectors": tuple(r.name for r in self.rows if len(r.shape) < 2),
        }

    def __getitem__(self, key: str) -> tuple[str, ...]:
        if key not in self._sets:
            raise DetectionError(f"no set of parameters is called {key!r}: there are {', '.join(self._sets)}")
        return self._sets[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def table(self) -> pd.DataFrame:
        """One row for each trainable parameter, with the reason."""
        import pandas as pd

        return pd.DataFrame([vars(r) for r in self.rows])

    def __str__(self) -> str:
        lines = [f"{len(self['normalised'])} of {len(self.rows)} trainable parameters are normalised"]
        lines += [f"  {r.name} {r.shape}: by {r.finest}; {r.reason}" for r in self.rows if r.normalised]
        return "\n".join(lines)

    def for_optimizer(self, settings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Param groups for any optimizer: `settings` maps the name of a set to what its parameters are told.

        A parameter that is in several sets goes to the one that is named first; "rest" takes all that no other one
        named here has. Raises `DetectionError` for a set that does not exist, or if a parameter is left over.
        """
        left, out = [r.name for r in self.rows], []
        for key in (*(k for k in settings if k != "rest"), *(("rest",) if "rest" in settings else ())):
            taken = left if key == "rest" else [name for name in left if name in self[key]]
            left = [name for name in left if name not in taken]
            if taken:
                out.append({"params": [self._params[name] for name in taken], **settings[key], "set": key})
        if left:
            raise DetectionError(
                f"{len(left)} parameters are in none of {', '.join(settings)}: {left[0]}, ...; add a set, 'rest': {{}}"
            )
        return out

    # -- recipes ------------------------------------------------------------------------------------------------------

    def decay_matrices(self, weight_decay: float) -> list[dict[str, Any]]:
        """Weight decay on matrices alone: biases and gains of norms are left out."""
        return self.for_optimizer({"vectors": {"weight_decay": 0.0}, "rest": {"weight_decay": weight_decay}})

    def decay_normalised(self, weight_decay: float) -> list[dict[str, Any]]:
        """Weight decay where it sets the effective learning rate and nothing else: on normalised parameters alone."""
        return self.for_optimizer({"normalised": {"weight_decay": weight_decay}, "rest": {"weight_decay": 0.0}})

    def for_muon(self, muon: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[list[dict[str, Any]], ...]:
        """(groups for Muon, groups for another optimizer): matrices of two axes, and all else."""
        matrices = [r.name for r in self.rows if len(r.shape) == 2]
        rest = [r.name for r in self.rows if len(r.shape) != 2]
        return (
            [{"params": [self._params[n] for n in matrices], **muon}] if matrices else [],
            [{"params": [self._params[n] for n in rest], **other}] if rest else [],
        )

    def correct_decay(self, optimizer: Optimizer) -> Any:
        """Let weight decay of normalised parameters follow the schedule (Defazio 2025, AdamC), so that gradients do not
        grow late: before each step it is weight_decay * lr / (largest lr so far). Returns a handle with `remove()`.

        `optimizer`: of groups from `for_optimizer`, with "normalised" among the sets. Decay should be decoupled.
        """
        mine = {id(self._params[name]) for name in self["normalised"]}
        groups = [g for g in optimizer.param_groups if g["params"] and all(id(p) in mine for p in g["params"])]
        if not groups:
            raise DetectionError("no param group holds normalised parameters alone: make them by for_optimizer")
        told = [(group, float(group["weight_decay"])) for group in groups]
        largest = [0.0] * len(told)

        def correct(*_: Any) -> None:
            for i, (group, decay) in enumerate(told):
                lr = float(group["lr"])
                largest[i] = max(largest[i], lr)
                group["weight_decay"] = decay * lr / largest[i] if largest[i] else decay

        return optimizer.register_step_pre_hook(correct)


def parameter_groups(
    model: nn.Module, example: Any = None, loss: Any = None, target: Any = None, *, findings: Findings | None = None
) -> ParameterGroups:
    """Which trainable parameters are scale-invariant, proven from the symmetries of the model; works on "meta" too.

    Arguments as of `find_symmetries`, whose errors it raises; or pass its `findings`.
    """
    if findings is None:
        verify = all(p.device.type != "meta" for p in model.parameters())
        findings = find_symmetries(model, example, loss, target, verify)
    params = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
    families = [s for s in findings if s.kind in ("scale", "rescale")]
    with torch.device("cpu"):
        return ParameterGroups(params, _known(params, families), findings)


def _known(params: Mapping[str, Tensor], families: Sequence[Symmetry]) -> list[Normalisation]:
    whole = _alone(list(params), *_uniform(params, families))
    finer = {name: _finest(name, p, families) for name, p in params.items()}
    out = []
    for name, p in params.items():
        proof = whole.get(name)
        finest, finer_proof = finer[name] if proof else ("", ())
        used = [families[i] for i in finer_proof or proof or ()]
        shared = [s for s in families if s.kind == "scale" and name in s.parameters and len(s.parameters) > 1]
        jointly = () if proof or not shared else tuple(n for n in shared[0].parameters if n != name)
        reason = " and ".join(s.name for s in used) or (shared[0].name if jointly else "")
        broken = "; ".join(dict.fromkeys(what for s in used for what in s.broken_by))
        out.append(Normalisation(name, tuple(p.shape), bool(proof), finest, jointly, reason, broken))
    return out


Exponents = dict[Any, dict[int, float]]
"""A piece of a parameter -> family -> the exponent with which it scales the piece."""


def _uniform(params: Mapping[str, Tensor], families: Sequence[Symmetry]) -> tuple[Exponents, dict[Any, set[Any]]]:
    """All members of a family alike. Pieces: (parameter, number), each of elements that all terms treat alike."""
    terms: dict[str, list[tuple[int, Term]]] = {}
    for i, s in enumerate(families):
        for t in s.terms:
            terms.setdefault(t.parameter, []).append((i, t))
    columns: Exponents = {}
    pieces: dict[Any, set[Any]] = {name: set() for name in params}
    for name, of in terms.items():
        if all(t.part is None for _, t in of):
            kinds, masks = [0], torch.ones(len(of), 1, dtype=torch.bool)
        else:
            # Elements of a parameter that the same terms move are one piece.
            shape = params[name].shape
            moved = torch.stack([t.spread(torch.ones(t.size(shape)), shape).flatten() != 0 for _, t in of])
            masks = torch.unique(moved, dim=1)
            kinds = list(range(masks.shape[1]))
        for k in kinds:
            row = columns.setdefault((name, k), {})
            pieces.setdefault(name, set()).add((name, k))
            for (i, t), here in zip(of, masks[:, k].tolist(), strict=True):
                if here:
                    row[i] = row.get(i, 0.0) + float(t.weight)
    return columns, pieces


def _alone(names: Sequence[str], columns: Exponents, pieces: Mapping[Any, set[Any]]) -> dict[Any, tuple[int, ...]]:
    """Of the targets `names`, those whose pieces can be scaled with all others at rest: the families that do it."""
    rows = {piece: k for k, piece in enumerate(columns)}
    known = sorted({i for row in columns.values() for i in row})
    if not known:
        return {}
    at = {i: k for k, i in enumerate(known)}
    matrix = torch.zeros(len(rows), len(known), dtype=torch.float64)
    for piece, row in columns.items():
        for i, weight in row.items():
            matrix[rows[piece], at[i]] = weight
    named = [name for name in names if pieces.get(name)]
    targets = torch.zeros(len(rows), len(named), dtype=torch.float64)
    for j, name in enumerate(named):
        for piece in pieces[name]:
            targets[rows[piece], j] = 1.0
    out: dict[Any, tuple[int, ...]] = {}
    solution = torch.linalg.lstsq(matrix, targets, driver="gelsd").solution if named else targets
    missed = (matrix @ solution - targets).abs().amax(0) if named else targets
    for j, name in enumerate(named):
        if float(missed[j]) > EXACT:
            continue
        single = [k for k in range(len(known)) if _parallel(matrix[:, k], targets[:, j])]
        used = single[:1] or [k for k in range(len(known)) if abs(float(solution[k, j])) > EXACT]
        out[name] = tuple(known[k] for k in used)
    return out


def _parallel(x: Tensor, y: Tensor) -> bool:
    return bool(((x != 0) == (y != 0)).all()) and bool((x[x != 0] == x[x != 0][0]).all())


def _finest(name: str, p: Tensor, families: Sequence[Symmetry]) -> tuple[str, tuple[int, ...]]:
    """The finest slices of a normalised parameter that may each be scaled by themselves, member by member."""
    found: list[tuple[int, str, tuple[int, ...]]] = []
    kinds = {(t.axis, t.part) for s in families for t in s.terms if t.parameter == name and t.axis is not None}
    for axis, part in sorted(kinds, key=repr):
        target = Term(name, axis, 1, part)  # type: ignore[arg-type]
        if part is not None and (part.select or part.strides is not None):
            continue  # not all of the parameter
        size = target.size(p.shape)
        columns: Exponents = {}
        for i, s in enumerate(families):
            if s.size == size:
                for t in s.terms:
                    row = columns.setdefault((t.parameter, t.axis, t.part), {})
                    row[i] = row.get(i, 0.0) + float(t.weight)
        proof = _alone([name], columns, {name: {(name, axis, part)}})
        if name in proof:
            words = "rows" if axis == 0 and part is None else f"axis {axis}" if part is None else f"{size} blocks"
            found.append((size, words, proof[name]))
    if not found:
        return "tensor", ()
    _, words, used = max(found)
    return words, used
