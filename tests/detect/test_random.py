"""Random networks: no claim may be false. Misses are counted and printed (`-s`), not forbidden."""

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, assume, given, seed, settings
from torch import Tensor
from zoo import LOSSES, Case, build

from detect import random_parts  # noqa: F401 (it enters its operators)
from detect.oracle import DOMAINS, EPS, NoGap, Score, find, null_spaces, without_eps
from detect.random_nets import case_of, programs
from neuromech import params as P
from neuromech.symmetry import Symmetry

PARAMETERS = 400  # networks beyond are left out, to stay fast
DRAWS = 7
tally: Counter[str] = Counter()


def torques(claims: list[Symmetry], case: Case) -> list[list[float]]:
    """|<g, v>| / (|g| |v|) of every claim at random parameters and inputs, wherever the gradient is neither rounding
    nor singular, and does not feel an eps: else something constant went into a norm, with no variance to divide by."""
    g = torch.Generator().manual_seed(2)
    model = build(case)
    params = dict(model.named_parameters())

    def gradient(x: tuple[Tensor, ...], target: Tensor | None, eps: float, draw: int) -> tuple[P.Params, Tensor]:
        without_eps(model, eps)
        with torch.random.fork_rng([]):
            torch.manual_seed(draw)  # dropout
            output = model(*x)
        target = case.target(output, g) if target is None else target
        loss = LOSSES[case.loss][0](output, target)
        grads = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
        return dict(zip(params, grads, strict=True)), target

    out: list[list[float]] = [[] for _ in claims]
    for draw in range(DRAWS):
        for p in params.values():
            p.data = torch.randn(p.shape, generator=g, dtype=p.dtype)
        x = case.inputs(g)
        grads, target = gradient(x, None, EPS, draw)
        again, _ = gradient(x, target, 4 * EPS, draw)
        felt = float(P.norm({name: again[name] - v for name, v in grads.items()}))
        if 1e-6 < float(P.norm(grads)) < 1e5 and felt < 1e-8 * float(P.norm(grads)):
            for s, seen in zip(claims, out, strict=True):
                v = s.tangent(
                    {n: p.detach() for n, p in params.items()}, torch.randn(s.size, generator=g, dtype=torch.float64)
                )
                seen.append(float(P.dot(grads, v).abs() / (P.norm(grads) * P.norm(v))))
    return out


def size(case: Case) -> int:
    return sum(p.numel() for p in build(case).parameters())


def check(case: Case) -> None:
    assume(0 < size(case) <= PARAMETERS)
    found = find(case, verify=False)
    evidence = torques(list(found), case)
    for s, seen in zip(found, evidence, strict=True):
        # The median: a channel that happens to be dead or nearly constant makes single draws meaningless.
        assert not seen or sorted(seen)[len(seen) // 2] < 1e-6, f"{s} is false"
    tally.update({"networks": 1, "families": len(found), "families without evidence": evidence.count([])})


def count_misses(case: Case) -> None:
    """Against the null space, where its spectrum leaves no doubt."""
    if size(case) > PARAMETERS // 4:
        return
    found = find(case, verify=False)
    try:
        truth = null_spaces(case)
    except NoGap:
        tally.update(undecided=1)
        return
    for domain, null in truth.items():
        score = null.score((s for s in found if s.kind in DOMAINS[domain]), case.model())
        tally.update({f"true {domain}": score.true, f"missed {domain}": score.true - score.shared})


def test_the_oracle_leaves_out_draws_that_feel_the_eps_of_a_norm_by_hand() -> None:
    """Squared thrice, small numbers vanish beside even 1e-14: to such draws a true scale symmetry is false."""
    squares = [("activation", 3)] * 3
    case = case_of([("linear", 1), *squares, ("norm_by_hand", 0)], (5, 3), "mse")
    found = [s for s in find(case, verify=False) if s.kind in DOMAINS["scaling"]]
    assert [s.name for s in found] == ["parts.0.weight"]
    assert null_spaces(case)["scaling"].score(found, case.model()) == Score(true=1, claimed=1, shared=1)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(programs())
def test_no_false_claim(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_no_false_claim_in_two_thousand(part: int) -> None:
    """In twenty parts, so that they can run side by side."""

    @seed(part)
    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(programs())
    def of_this_part(case: Case) -> None:
        check(case)
        count_misses(case)

    of_this_part()


def teardown_module() -> None:
    print(f"\nrandom networks: {dict(tally)}")
