"""`find_symmetries`: capture, interpret, solve, explain, verify."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor, nn

from neuromech.detect import operators as operators  # fills the table
from neuromech.detect.capture import tensors_of
from neuromech.detect.effort import Effort, effort, limited, to_stderr, uncollected
from neuromech.detect.families import claims as claims_of
from neuromech.detect.findings import Findings as Findings
from neuromech.detect.graph import Graph, Value, together
from neuromech.detect.independent import Independent
from neuromech.detect.interpret import Interpreter, Invariance, Opaque, can_move
from neuromech.detect.matrix import matrix_families
from neuromech.detect.paths import recordings
from neuromech.detect.permutations import permutations
from neuromech.detect.recognition import in_words, seen_of
from neuromech.detect.recorder import CUSTOM
from neuromech.detect.solve import SolutionFamily, solve, without
from neuromech.detect.unread import without_unread
from neuromech.detect.verify import Experiment, is_watched, outputs_as_they_are, tried, verify
from neuromech.errors import DetectionError, warn
from neuromech.symmetry import Symmetry, SymmetrySet


def find_symmetries(
    model: nn.Module,
    example: Any,
    loss: Callable[..., Any] | None = None,
    target: Any = None,
    verify: bool = True,
    budget: float | None = None,
) -> Findings:
    """The translation, scale, rescale and matrix symmetries of a model's parameters.

    `example`: what the model is called with: a tensor, a tuple (positional) or a dict (by keyword); or a list of such,
    where one does not show all that the model does: claims hold for all of them. `target` is a list then, too. `loss`:
    `loss(output, target)` or `loss(output)`, a scalar; without it the output itself must be left unchanged (or its
    scalar `.loss`, if it has one). `verify=False` skips the numerical check; on the meta device there is none.
    `budget`: seconds of CPU time, about; where they do not suffice, axes are taken as wholes from some point on, only
    what is settled is claimed, and a note and a warning say so.

    Raises `DetectionError` for a model without trainable parameters or a loss that is not a scalar, `CaptureError` if
    the forward cannot be recorded faithfully.
    """
    with limited(budget, None if is_watched() else to_stderr) as spent:
        return settled(_found(model, example, loss, target, verify), spent)


def settled(found: Findings, spent: Effort) -> Findings:
    """The findings, which say that the time was up, and warn of it, if it was."""
    if not spent.over:
        return found
    message = (
        f"the budget of {spent.budget:g} s of CPU time did not suffice to find all symmetries: from some point on axes "
        "were taken as wholes and were not cut into pieces, and what was not settled is not claimed. What is claimed "
        "holds; budget= takes more seconds, None for no limit"
    )
    warn(message, "budget", short=f"{spent.budget:g} s of CPU time did not suffice to find all symmetries")
    return replace(found, notes=(*found.notes, message))


def _found(model: nn.Module, example: Any, loss: Callable[..., Any] | None, target: Any, verify: bool) -> Findings:
    _check_trainable(model)
    graphs: list[Graph] = []
    experiments: list[Experiment] = []
    ways: list[str] = []
    for some, wanted in _examples(example, target):
        args, kwargs = arguments(some)
        closed = _closed(loss, wanted)
        recorded, more = recordings(model, args, kwargs, closed)
        shapes = [v.shape for v in recorded[0].outputs]
        if closed is not None and shapes != [()]:
            listed = ", ".join(map(str, shapes))
            raise DetectionError(f"the loss must return one number, it returned tensors of shape {listed}: reduce it")
        experiments.append(Experiment(model, args, kwargs, outputs_as_they_are if closed is None else _after(closed)))
        graphs += recorded
        ways += more
    if loss:
        notes = ["the loss was given"]
    elif [v.shape for v in graphs[0].outputs] == [()]:
        notes = ["no loss was given: the one number that the model returns must stay unchanged"]
    else:
        notes = ["no loss was given: the output itself must stay unchanged"]
    if not verify:
        notes.append("nothing was verified, as verify=False asks")
    if len(experiments) > 1:
        notes.append(f"what is claimed holds for all {len(experiments)} examples")
    graph = together(graphs)
    whole = [Invariance()] * len(graph.outputs)
    found = analyse(model, graph, whole, experiments if verify else None, tuple(dict.fromkeys([*notes, *ways])))
    return replace(found, experiments=tuple(experiments))


def _examples(example: Any, target: Any) -> list[tuple[Any, Any]]:
    """Every example with its target. Raises `DetectionError` if they are not as many."""
    if not isinstance(example, list):
        return [(example, target)]
    if not example:
        raise DetectionError("the list of examples is empty: pass at least one")
    if target is None:
        return [(some, None) for some in example]
    if not isinstance(target, list) or len(target) != len(example):
        raise DetectionError(f"{len(example)} examples need a list of as many targets")
    return list(zip(example, target, strict=True))


def _after(loss: Callable[[Any], Any]) -> Callable[[Any], list[Tensor]]:
    return lambda output: tensors_of(loss(output))


def find_under(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    graph: Graph,
    free: Sequence[Invariance],
    verify: bool = True,
) -> Findings:
    """As `find_symmetries`, for a recorded graph whose loss is known by what it does not see of the outputs."""

    def seen(output: Any) -> list[Tensor]:
        return [seen_of(t, f) for t, f in zip(tensors_of(output), free, strict=True)]

    notes = tuple(dict.fromkeys(f"the loss was {in_words(f)}" for f in free))
    return analyse(model, graph, free, Experiment(model, args, kwargs, seen) if verify else None, notes)


def analyse(
    model: nn.Module,
    graph: Graph,
    free: Sequence[Invariance],
    experiment: Experiment | Sequence[Experiment] | None,
    notes: tuple[str, ...] = (),
) -> Findings:
    """Graph -> findings; `free` is what the loss does not see of each output, `experiment` the numerical check, on one
    example or on each of several."""
    _check_trainable(model)
    read = without_unread(graph)
    with uncollected():
        interpreter = Interpreter(read)
        interpreter.run(free)
        families = _families(interpreter)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        drawn = {
            domain: claims_of(found, getattr(interpreter, domain), shapes, translation=domain == "translation")
            for domain, found in families.items()
        }
        claims = [claim.symmetry for own in drawn.values() for claim in own]
        matrix = matrix_families(read, _shifted_at_will(claims, shapes))
        places, independent = permutations(interpreter, shapes), Independent(drawn, shapes)
    claims += matrix.families
    true, undecided = [True] * len(claims), frozenset[int]()
    meta = any(p.is_meta for p in model.parameters())
    if meta:
        notes = (*notes, "parameters on the meta device have no values: nothing was verified")
    elif experiment is not None and claims:
        verdicts = [verify(e, claims) for e in ([experiment] if isinstance(experiment, Experiment) else experiment)]
        defects = (max(some) for some in zip(*(v.defects for v in verdicts), strict=True))
        claims = [replace(s, defect=d) for s, d in zip(claims, defects, strict=True)]
        true = [all(some) for some in zip(*(v.true for v in verdicts), strict=True)]
        undecided = frozenset().union(*(v.open for v in verdicts))
        effort().over |= bool(undecided)
        notes = (*notes, *(f"nothing was verified: {v.unjudged}" for v in verdicts if v.unjudged))
    checks = [experiment] if isinstance(experiment, Experiment) else experiment
    if places and checks and not meta:
        places = tried(checks, places)
    kept = [s for s, t in zip(claims, true, strict=True) if t]
    rejected = [s for i, (s, t) in enumerate(zip(claims, true, strict=True)) if not t and i not in undecided]
    if rejected:
        escapes = any(node.escape for node in graph.nodes)
        other = "the forward reads numbers off tensors, and may have taken another way when it was called again; or "
        warn(
            f"{len(rejected)} claimed symmetries failed the numerical check and are withdrawn (see .rejected): "
            f"{other if escapes else ''}a rule of neuromech is wrong for the model, or a gradient of PyTorch. Please "
            "report it",
            "withdrawn",
            short=f"{len(rejected)} claims failed the check and are withdrawn",
        )
    reached = {name for v in graph.ancestors(graph.outputs) for name in v.names}
    inactive = tuple(name for name, p in model.named_parameters() if p.requires_grad and name not in reached)
    touched = {name for node in graph.nodes for v in node.inputs for name in v.names}
    if passed_over := [v.names[0] for v in graph.parameters if v.trainable and not can_move(v)]:
        notes = (*notes, f"nothing is claimed about {', '.join(passed_over)}: complex numbers, or no elements")
    if graph.written:
        notes = (
            *notes,
            f"the forward itself sets {', '.join(graph.written)}: what is claimed holds for the values that it reads",
        )
    return Findings(
        SymmetrySet(kept),
        SymmetrySet(rejected),
        _opaque(interpreter.opaque, matrix.opaque),
        inactive,
        independent.among(kept),
        notes,
        tuple(places),
        never_read=tuple(name for name in inactive if name not in touched),
        independent=independent,
    )


def _opaque(diagonal: Sequence[Opaque], matrix: Sequence[Opaque]) -> tuple[Opaque, ...]:
    """What blocks claims, in all domains: an operator that is listed for the diagonal ones is not listed again."""
    listed = {(o.op, o.module) for o in diagonal}
    ended = {(o.op, o.module) for o in matrix}
    first = [replace(o, domains=(*o.domains, "matrix")) if (o.op, o.module) in ended else o for o in diagonal]
    return (*first, *(o for o in matrix if (o.op, o.module) not in listed))


def _shifted_at_will(claims: Sequence[Symmetry], shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The parameters every element of which may be shifted by itself, with nothing else moving."""
    sole = [s for s in claims if s.kind == "translation" and len(s.terms) == 1]
    return {s.parameters[0] for s in sole if s.size == prod(shapes[s.parameters[0]])}


def custom_claims(graph: Graph, free: Sequence[Invariance], known: Sequence[Symmetry]) -> list[Symmetry]:
    """Symmetries of the forward, beyond those `known`, that custom autograd functions stand in the way of.

    Claims pass them here as their forward does, through which `analyse` claims nothing. Where the gradient violates
    one, a backward is wrong; or it is meant to be something else, as a straight-through one is.
    """
    custom = [node for node in graph.nodes if node.opaque.startswith(CUSTOM)]
    if not custom:
        return []
    reasons = [node.opaque for node in custom]
    try:
        for node in custom:
            node.opaque = ""
        interpreter = Interpreter(graph)
        interpreter.run(free)
        families = _families(interpreter)
    finally:
        for node, reason in zip(custom, reasons, strict=True):
            node.opaque = reason
    shapes = {v.names[0]: v.shape for v in graph.parameters}
    names = {s.name for s in known}
    claims = (
        claim.symmetry
        for domain, found in families.items()
        for claim in claims_of(found, getattr(interpreter, domain), shapes, translation=domain == "translation")
    )
    return [s for s in claims if s.name not in names]


def _families(interpreter: Interpreter) -> dict[str, list[SolutionFamily]]:
    """The solutions by domain. A parameter that may be shifted at will has no say in any scale symmetry."""
    unknowns = [interpreter.unknowns[v] for v in _as_they_work(interpreter)]
    scaling, translation = (
        solve([u[d] for u in unknowns], domain.equations, domain.auxiliary)
        for d, domain in enumerate((interpreter.scaling, interpreter.translation))
    )
    dead = {f.sole for f in translation if f.sole}
    return {"scaling": without(scaling, dead), "translation": translation}


def _as_they_work(interpreter: Interpreter) -> list[Value]:
    """The parameters in the order in which their modules come into play, those of one module as it lists them."""

    def module(v: Value) -> str:
        return v.names[0].rpartition(".")[0]

    turn: dict[str, int] = {}
    for n, v in enumerate(interpreter.unknowns):
        turn.setdefault(module(v), n)
    return sorted((v for v in interpreter.trainable if v in interpreter.unknowns), key=lambda v: turn[module(v)])


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example as positional and keyword arguments of the model's forward."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def wants_target(loss: Callable[..., Any]) -> bool:
    """True if `loss` takes (output, target), false if it takes the output alone."""
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in signature.parameters.values()) >= 2


def _check_trainable(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise DetectionError(f"expected a torch.nn.Module, got {type(model).__name__}: pass the model itself")
    if not any(p.requires_grad for p in model.parameters()):
        what = "no trainable parameters" if any(True for _ in model.parameters()) else "no parameters"
        quantised = any(".quantized" in type(m).__module__ for m in model.modules())
        why = " (what is quantised holds numbers, but no parameters)" if quantised else ""
        raise DetectionError(f"{type(model).__name__} has {what}{why}: there is nothing that could move")


def _closed(loss: Callable[..., Any] | None, target: Any) -> Callable[[Any], Any] | None:
    """The loss as a function of the output alone."""
    if loss is None:
        if target is not None:
            raise DetectionError("a target was given without a loss that could use it: pass loss= as well")
        return None
    if not callable(loss):
        raise DetectionError(f"the loss is {loss!r}: pass a function of (output, target), or of the output alone")
    if target is None and wants_target(loss):
        raise DetectionError("this loss takes (output, target): pass target= as well")
    return loss if target is None else lambda output: loss(output, target)
