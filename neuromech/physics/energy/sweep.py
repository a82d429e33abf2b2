"""The discrete chain rule over a graph: run it at both states, then one sweep in reverse."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from neuromech.physics.energy.graph import op_name, varying
from neuromech.physics.energy.pair_rules import PAIRS
from neuromech.physics.energy.rules import LINEAR, QUADRATIC, SECANTS, SOFTMAX
from neuromech.physics.energy.secants import logarithmic_mean

NodeValues = dict[fx.Node, Any]


def discrete_sweep(module: fx.GraphModule) -> Callable[..., Tensor]:
    """The discrete gradient, as a function of (tensors..., u, v), of the energy that `module` computes of (..., u)."""
    graph = module.graph
    order = varying(graph)
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    (result,) = next(n for n in graph.nodes if n.op == "output").all_input_nodes

    def sweep(*tensors: Tensor) -> Tensor:
        *state, u, v = tensors
        fixed = dict(zip(inputs[:-1], state, strict=True))
        fixed |= {n: getattr(module, n.target) for n in graph.nodes if n.op == "get_attr"}
        moving = set(order)
        for node in graph.nodes:
            if node.op == "call_function" and all(n in fixed for n in node.all_input_nodes):
                fixed[node] = _call(node, fixed)
        at_u, at_v = fixed | {inputs[-1]: u}, fixed | {inputs[-1]: v}
        for node in graph.nodes:
            if node.op == "call_function" and node not in fixed:
                at_u[node], at_v[node] = _call(node, at_u), _call(node, at_v)
        energy = at_u[result]
        pulled: NodeValues = {result: torch.ones(energy.shape, dtype=energy.dtype, device=energy.device)}
        for node in reversed(order[1:]):
            if node in pulled:
                for source, cotangent in _pull(node, pulled.pop(node), at_u, at_v, moving):
                    pulled[source] = _add(pulled[source], cotangent) if source in pulled else cotangent
        out: Tensor = pulled[inputs[-1]]
        return out

    return sweep


def _call(node: fx.Node, values: NodeValues) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: values[n])
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _add(x: Any, y: Any) -> Any:
    return [_add(a, b) for a, b in zip(x, y, strict=True)] if isinstance(x, list) else x + y


def _pull(
    node: fx.Node, g: Any, at_u: NodeValues, at_v: NodeValues, moving: set[fx.Node]
) -> Iterator[tuple[fx.Node, Any]]:
    """The cotangent `g` of a node as cotangents of those of its inputs that vary."""
    occurrences: list[fx.Node] = []
    map_arg((node.args, node.kwargs), lambda n: occurrences.append(n) if n in moving else None)
    sources = list(dict.fromkeys(occurrences))
    name = op_name(node)
    if node.target is operator.getitem:
        (source,) = sources
        parts = [torch.zeros_like(part) for part in at_u[source]]
        parts[node.args[1]] = g  # type: ignore[index]
        yield source, parts
    elif name in SECANTS:
        (source,) = sources
        secant = SECANTS[name](*node.args[1:], **node.kwargs)
        yield source, g * secant(at_u[source], at_v[source], at_u[node], at_v[node])
    elif name in SOFTMAX:
        (source,) = sources
        yield source, _softmax(node, g, source, at_u, at_v)
    elif name in PAIRS and not _chooses(node, moving):
        (args_u, keywords), (args_v, _) = (
            map_arg((node.args, node.kwargs), values.__getitem__) for values in (at_u, at_v)
        )
        cotangents = PAIRS[name](g, args_u, args_v, at_u[node], at_v[node], keywords)
        for argument, cotangent in zip(node.args, cotangents, strict=False):
            if isinstance(argument, fx.Node) and argument in moving and cotangent is not None:
                yield argument, cotangent
    else:
        is_affine = name in LINEAR or name in PAIRS or (name not in QUADRATIC and len(occurrences) == 1)
        points = [at_u[n] if is_affine and _is_smooth(at_u[n]) else _middle(at_u[n], at_v[n], g) for n in sources]

        def function(*values: Any) -> Any:
            return _call(node, at_u | dict(zip(sources, values, strict=True)))

        transpose = torch.func.vjp(function, *points)[1]
        yield from zip(sources, transpose(type(at_u[node])(g) if isinstance(g, list) else g), strict=True)


def _chooses(node: fx.Node, moving: set[fx.Node]) -> bool:
    """A choice by what does not vary is linear in what it chooses from."""
    condition = {"where": 0, "masked_fill": 1}.get(op_name(node))
    return condition is not None and node.args[condition] not in moving


def _is_smooth(x: Any) -> bool:
    return all(_is_smooth(part) for part in x) if isinstance(x, list) else x.is_floating_point() or x.is_complex()


def _middle(x: Any, y: Any, g: Any) -> Any:
    """The mean; bits and integers, as masks and their counts, are numbers like any others."""
    if isinstance(x, list):
        return [_middle(a, b, g) for a, b in zip(x, y, strict=True)]
    if not _is_smooth(x):
        dtype = (g[0] if isinstance(g, list) else g).dtype
        x, y = x.to(dtype), y.to(dtype)
    return (x + y) / 2


def _softmax(node: fx.Node, g: Tensor, source: fx.Node, at_u: NodeValues, at_v: NodeValues) -> Tensor:
    """logsumexp, softmax and log_softmax of a = x(u) and b = x(v), with p and q their softmaxes.

    With m_i the logarithmic mean of p_i and q_i, p_i - q_i = m_i (da_i - dl) for l = logsumexp. Both sum to 1, so
    dl = sum m_i da_i / sum m_i: like the softmax, the means without their scale are the discrete gradient of logsumexp.
    """
    name, over = op_name(node), node.args[1]
    dims: list[int] = [over] if isinstance(over, int) else list(over)  # type: ignore[arg-type]
    shifted = _shifted(at_u[source], at_v[source], dims)
    a, b = ((x - torch.logsumexp(x, dims, keepdim=True)).clamp_min(-1e4) for x in shifted)  # of what is masked: -inf
    mean = logarithmic_mean(a, b)
    weights = mean / mean.sum(dims, keepdim=True)
    if name == "logsumexp":
        keepdim = len(node.args) > 2 and node.args[2]
        for dim in [] if keepdim else sorted(dim % mean.ndim for dim in dims):
            g = g.unsqueeze(dim)
        return g * weights
    if "log_softmax" in name:
        return g - g.sum(dims, keepdim=True) * weights
    return mean * (g - (g * weights).sum(dims, keepdim=True))


def _shifted(x: Tensor, y: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Each with its largest entries at 0, which changes no softmax and keeps the digits of the entries that matter."""
    return x - x.detach().amax(dims, keepdim=True), y - y.detach().amax(dims, keepdim=True)
