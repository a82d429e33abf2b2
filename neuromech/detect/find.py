"""`find_symmetries`: capture, interpret, solve, explain, verify."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from neuromech.detect.capture import record, tensors_of
from neuromech.detect.families import symmetries
from neuromech.detect.graph import Graph
from neuromech.detect.interpret import Interpreter, Invariance, Opaque, can_move
from neuromech.detect.recognise import in_words, seen_of
from neuromech.detect.solve import dimension, solve
from neuromech.detect.verify import Experiment, outputs_as_they_are, verify
from neuromech.errors import DetectionError, NeuromechWarning
from neuromech.symmetry import Symmetry, SymmetrySet

if TYPE_CHECKING:
    import pandas as pd

Loss = Callable[..., Any]


@dataclass(frozen=True)
class Findings(Sequence[Symmetry]):
    """What detection found: the families themselves, and what qualifies them.

    `symmetries`: the families that may be claimed. `rejected`: claims that failed verification, with their defect.
    `opaque`: operators that no claim passes. `inactive`: parameters that do not reach the result. `dimension`: number
    of independent one-parameter symmetries by domain. `notes`: how the loss was known, and what limits the answer.
    """

    symmetries: SymmetrySet
    rejected: SymmetrySet = field(default_factory=SymmetrySet)
    opaque: tuple[Opaque, ...] = ()
    inactive: tuple[str, ...] = ()
    dimension: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Symmetry: ...
    @overload
    def __getitem__(self, index: slice) -> SymmetrySet: ...
    def __getitem__(self, index: int | slice) -> Symmetry | SymmetrySet:
        return self.symmetries[index]

    def __len__(self) -> int:
        return len(self.symmetries)

    def table(self) -> pd.DataFrame:
        """One row a family."""
        return self.symmetries.table()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON; `from_dict` is its inverse."""
        return {
            "symmetries": [s.to_dict() for s in self.symmetries],
            "rejected": [s.to_dict() for s in self.rejected],
            "opaque": [vars(o) | {"blocks": list(o.blocks)} for o in self.opaque],
            "inactive": list(self.inactive),
            "dimension": dict(self.dimension),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Findings:
        return cls(
            SymmetrySet(map(Symmetry.from_dict, data["symmetries"])),
            SymmetrySet(map(Symmetry.from_dict, data["rejected"])),
            tuple(Opaque(**{**o, "blocks": tuple(o["blocks"])}) for o in data["opaque"]),
            tuple(data["inactive"]),
            dict(data["dimension"]),
            tuple(data["notes"]),
        )

    def __str__(self) -> str:
        lines = [
            f"{len(self.symmetries)} families: "
            + ", ".join(f"{n} {k}" for k, n in self.dimension.items())
            + " (independent one-parameter symmetries)"
        ]
        width = max((len(s.name) for s in self.symmetries), default=0)
        for s in self.symmetries:
            lines.append(f"  {s.kind:<11} {s.size:>6}  {s.name:<{min(width, 70)}}  defect {s.defect:.0e}  {s.reason}")
        lines += [
            f"  opaque: {o.op} in {o.module or 'the model'}: {o.why}; nothing is claimed through it "
            f"about {', '.join(o.blocks)}"
            for o in self.opaque
        ]
        lines += [f"  rejected: {s.name}: defect {s.defect:.0e}" for s in self.rejected]
        lines += [f"  inactive: {', '.join(self.inactive)}"] if self.inactive else []
        return "\n".join([*lines, *(f"  note: {n}" for n in self.notes)])


def find_symmetries(
    model: nn.Module,
    example: Any,
    loss: Loss | None = None,
    target: Any = None,
    verify: bool = True,
) -> Findings:
    """The translation, scale and rescale symmetries of a model's parameters.

    `example`: what the model is called with: a tensor, a tuple (positional) or a dict (by keyword). `loss`:
    `loss(output, target)` or `loss(output)`, a scalar; without it the output itself must be left unchanged (or its
    scalar `.loss`, if it has one). `verify=False` skips the numerical check; on the meta device there is none.

    Raises `DetectionError` for a model without trainable parameters or a loss that is not a scalar, `CaptureError` if
    the forward cannot be recorded faithfully.
    """
    args, kwargs = arguments(example)
    closed = _closed(loss, target)
    graph = record(model, args, kwargs, closed)
    if closed is not None and (len(graph.outputs) != 1 or graph.outputs[0].shape != ()):
        shapes = [v.shape for v in graph.outputs]
        raise DetectionError(
            f"the loss must return one scalar, it returned shapes {shapes}: reduce it, e.g. by .mean()"
        )
    seen = outputs_as_they_are if closed is None else lambda output: tensors_of(closed(output))
    note = "the loss was given" if closed else "no loss was given: the output itself must stay unchanged"
    whole = [Invariance()] * len(graph.outputs)
    return analyse(model, graph, whole, Experiment(model, args, kwargs, seen) if verify else None, (note,))


def find_under(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], graph: Graph, free: Sequence[Invariance]
) -> Findings:
    """As `find_symmetries`, for a recorded graph whose loss is known by what it does not see of the outputs."""

    def seen(output: Any) -> list[Tensor]:
        return [seen_of(t, f) for t, f in zip(tensors_of(output), free, strict=True)]

    notes = tuple(dict.fromkeys(f"the loss was {in_words(f)}" for f in free))
    return analyse(model, graph, free, Experiment(model, args, kwargs, seen), notes)


def analyse(
    model: nn.Module,
    graph: Graph,
    free: Sequence[Invariance],
    experiment: Experiment | None,
    notes: tuple[str, ...] = (),
) -> Findings:
    """Graph -> findings; `free` is what the loss does not see of each output, `experiment` the numerical check."""
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        raise DetectionError(f"{type(model).__name__} has no trainable parameters: there is nothing that could move")
    interpreter = Interpreter(graph)
    interpreter.run(free)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    claims: list[Symmetry] = []
    dimensions: dict[str, int] = {}
    for d, (what, domain) in enumerate((("scaling", interpreter.scaling), ("translation", interpreter.translation))):
        found = solve([u[d] for u in interpreter.unknowns.values()], domain.equations, domain.auxiliary)
        claims += symmetries(found, domain, shapes, translation=what == "translation")
        dimensions[what] = dimension(found)
    rejected: list[Symmetry] = []
    if any(p.is_meta for p in model.parameters()):
        notes = (*notes, "parameters on the meta device have no values: nothing was verified")
    elif experiment is not None and claims:
        verdict = verify(experiment, claims)
        claims, rejected = verdict.confirmed, verdict.rejected
        if not verdict.judged:
            notes = (*notes, "near the present parameters the loss or its gradient is not finite: nothing was verified")
    if rejected:
        warnings.warn(
            f"{len(rejected)} claimed symmetries failed the numerical check and are withdrawn (see .rejected); please "
            "report the model: a rule of neuromech is wrong for it",
            NeuromechWarning,
            stacklevel=3,
        )
    active = {name for v in graph.ancestors(graph.outputs) for name in v.names}
    inactive = tuple(name for name in trainable if name not in active)
    if passed_over := [v.names[0] for v in graph.parameters if v.trainable and not can_move(v)]:
        words = "complex, or have no elements: nothing is claimed about them"
        notes = (*notes, f"{', '.join(passed_over)} are {words}")
    return Findings(SymmetrySet(claims), SymmetrySet(rejected), tuple(interpreter.opaque), inactive, dimensions, notes)


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example as positional and keyword arguments of the model's forward."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def wants_target(loss: Loss) -> bool:
    """True if `loss` takes (output, target), false if it takes the output alone."""
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in signature.parameters.values()) >= 2


def _closed(loss: Loss | None, target: Any) -> Callable[[Any], Any] | None:
    """The loss as a function of the output alone."""
    if loss is None:
        if target is not None:
            raise DetectionError("a target was given without a loss that could use it: pass loss= as well")
        return None
    if target is None and wants_target(loss):
        raise DetectionError("this loss takes (output, target): pass target= as well")
    return loss if target is None else lambda output: loss(output, target)
