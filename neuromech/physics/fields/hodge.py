"""`HodgeDecomposition`: a vector field as gradient + divergence-free + harmonic part, mutually orthogonal.

On a torus the harmonic fields are the constants. In a box or a ball (Hodge-Morrey-Friedrichs) the gradient part has a
potential that vanishes on the wall, the divergence-free part does not cross the wall, and the harmonic part, free of
divergence and of curl, carries what crosses it. With these conditions built into the networks, gradient and
divergence-free part are orthogonal in L^2 whatever the parameters are, so that least squares finds all parts at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.fields.divergence_free import DivergenceFree, check_dimension
from neuromech.physics.fields.domain import FreeSpace, Torus, check_domain, check_inside, check_periodic, check_points
from neuromech.physics.fields.elementary import TensorMap
from neuromech.physics.fields.layers import Sin, mlp, stack_of
from neuromech.physics.fields.smooth import check_modules, check_values
from neuromech.physics.fields.taylor import tangents

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("gradient", "divergence_free", "harmonic")


@dataclass(frozen=True)
class Orthogonality:
    """Inner products of the parts, measured on `points` points.

    `energy`: mean |part|^2 over mean |field|^2. `inner`: |mean <a, b>| over mean |field|^2. `cosine`: over the norms of
    the two parts instead; nan if one of them is below 1e-6 of the field. `residual`: what no part explains, relative
    (in a box or ball the harmonic part is the rest, so it is 0 there by definition).
    """

    points: int
    energy: dict[str, float]
    inner: dict[tuple[str, str], float]
    cosine: dict[tuple[str, str], float]
    residual: float

    def table(self) -> pd.DataFrame:
        """One row a pair of parts."""
        import pandas as pd

        rows = [(a, b, self.energy[a], self.energy[b], self.inner[a, b], self.cosine[a, b]) for a, b in self.inner]
        return pd.DataFrame(rows, columns=["part", "other", "energy", "energy of other", "inner", "cosine"])


class HodgeDecomposition(nn.Module):
    """Split a field on a `Torus`, `Box` or `Ball` in d >= 2 dimensions; `fit` it, then call the parts.

    `scalar`: the potential of the gradient part, [B, d] -> [B, 1]; `matrix`: that of the divergence-free part,
    [B, d] -> [B, d(d-1)/2]; None: networks of `depth` layers of `width`, with the domain's periods. They are made in
    torch's default dtype.
    """

    mean: Tensor

    def __init__(
        self,
        domain: FreeSpace,
        scalar: nn.Module | None = None,
        matrix: nn.Module | None = None,
        width: int = 48,
        depth: int = 2,
    ) -> None:
        super().__init__()
        check_domain(domain)
        d = domain.d
        check_dimension(d)
        if type(domain) is FreeSpace:
            raise PhysicsError("in free space the parts are not unique: use a Torus, Box or Ball")
        periods = domain.periods if any(domain.periods) else None

        def network(outputs: int) -> nn.Module:
            return mlp(d, outputs, width, depth, Sin, periods)

        self.domain = domain
        self.scalar = scalar if scalar is not None else network(1)
        self.solenoid = DivergenceFree(matrix if matrix is not None else network(d * (d - 1) // 2), d, domain=domain)
        check_modules(self.scalar)
        self.register_buffer("mean", torch.zeros(d))
        self._field: TensorMap | None = None
        self._samples: tuple[Tensor, Tensor] | None = None

    def gradient(self, x: Tensor) -> Tensor:
        """grad p: [B, d]."""
        check_points(x, self.domain.d, "HodgeDecomposition")
        check_inside(self.domain, x, "HodgeDecomposition")
        p, slope = tangents(stack_of(self.scalar), x, self.domain.d)
        gate, steep = self.domain.wall(x)
        return gate[:, None] * slope.expand(len(x), -1, -1)[..., 0] + p * steep

    def divergence_free(self, x: Tensor) -> Tensor:
        """sum_j d_j A_ij: [B, d]."""
        check_points(x, self.domain.d, "HodgeDecomposition")
        check_inside(self.domain, x, "HodgeDecomposition")
        field: Tensor = self.solenoid(x)
        return field

    def harmonic(self, x: Tensor) -> Tensor:
        """The constant part on a torus; in a box or ball what is left of the field: [B, d]."""
        check_points(x, self.domain.d, "HodgeDecomposition")
        if isinstance(self.domain, Torus):
            return self.mean.expand_as(x)
        if self._field is None:
            raise PhysicsError(
                "the harmonic part in a box or ball is the rest of the field, which is not known here: fit a function, "
                "or call parts(), which has it at the samples"
            )
        return self._field(x) - self.gradient(x) - self.divergence_free(x)

    def fit(
        self,
        field: TensorMap | tuple[Tensor, Tensor],
        steps: int = 300,
        count: int = 4096,
        progress: bool = False,
    ) -> HodgeDecomposition:
        """Least squares by L-BFGS, `steps` iterations, over `count` evenly spread points.

        `field`: a function [B, d] -> [B, d], or samples (points [N, d], values [N, d]) that cover the domain evenly.
        """
        if steps < 1 or count < 4 or not (callable(field) or (isinstance(field, tuple) and len(field) == 2)):
            raise PhysicsError(
                f"{steps=}, {count=}, a field of type {type(field).__name__}: expected 1 or more steps, 4 or more "
                "points, and a function of points or a pair (points [N, d], values [N, d])"
            )
        x, f = self._data(field, count)
        check_values(self.scalar, x, 1, "the one value of the gradient part's potential")
        check_periodic(self.scalar, self.domain, x)
        check_periodic(self.solenoid.potential, self.domain, x)
        if isinstance(self.domain, Torus):
            self.mean.copy_(f.mean(0))
        rest, power = f - (self.mean if isinstance(self.domain, Torus) else 0), f.square().sum(-1).mean()
        optimizer = torch.optim.LBFGS(
            self.parameters(),
            max_iter=20,
            history_size=50,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (rest - self.gradient(x) - self.divergence_free(x)).square().sum(-1).mean() / power
            loss.backward()
            return loss

        rounds = range(math.ceil(steps / 20))
        if progress:
            from tqdm import tqdm

            rounds = tqdm(rounds, unit="round", leave=False)  # type: ignore[assignment]
        for _ in rounds:
            loss = optimizer.step(closure).detach()
            if not math.isfinite(float(loss)):
                raise PhysicsError(f"the fit has diverged (loss {float(loss)}): try float64, or another potential")
        return self

    def remember(self, field: TensorMap) -> HodgeDecomposition:
        """Give the field back to a decomposition that was loaded: the harmonic part may be its rest."""
        self._data(field, 64)
        return self

    @torch.no_grad()
    def parts(self, x: Tensor | None = None) -> dict[str, Tensor]:
        """The three parts at points x [B, d], or at the samples that it was fitted to."""
        if x is None:
            x, f = self._fitted()
            if not isinstance(self.domain, Torus):
                g, v = self.gradient(x), self.divergence_free(x)
                return {"gradient": g, "divergence_free": v, "harmonic": f - g - v}
        return {"gradient": self.gradient(x), "divergence_free": self.divergence_free(x), "harmonic": self.harmonic(x)}

    @torch.no_grad()
    def orthogonality(self, count: int = 65_536) -> Orthogonality:
        """Measured on `count` evenly spread points that the fit has not seen, or on the samples that were fitted."""
        if self._field is not None:
            x = spread_points(self.domain, count, self._like(), shift=0.37)
            f, parts = self._field(x), self.parts(x)
        else:
            (x, f), parts = self._fitted(), self.parts()
        power = f.square().sum(-1).mean()
        norms = {k: v.square().sum(-1).mean() for k, v in parts.items()}
        pairs = [(a, b) for i, a in enumerate(PARTS) for b in PARTS[i + 1 :]]
        products = {(a, b): (parts[a] * parts[b]).sum(-1).mean().abs() for a, b in pairs}
        rest = (f - sum(parts.values())).square().sum(-1).mean()

        def cosine(a: str, b: str) -> float:
            small = min(norms[a], norms[b]) < 1e-12 * power
            return math.nan if small else float(products[a, b] / (norms[a] * norms[b]).sqrt())

        return Orthogonality(
            len(x),
            {k: float(v / power) for k, v in norms.items()},
            {pair: float(v / power) for pair, v in products.items()},
            {pair: cosine(*pair) for pair in pairs},
            float((rest / power).sqrt()),
        )

    def _like(self) -> Tensor:
        return next(self.parameters())

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self._samples is None:
            raise PhysicsError("nothing was fitted yet: call fit(field) first")
        return self._samples

    def _data(self, field: TensorMap | tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
        self._field = None if isinstance(field, tuple) else field
        x = field[0] if isinstance(field, tuple) else spread_points(self.domain, count, self._like())
        check_points(x, self.domain.d, "HodgeDecomposition.fit")
        check_inside(self.domain, x, "HodgeDecomposition.fit")
        if x.dtype != self._like().dtype:
            raise PhysicsError(f"the samples are {x.dtype}, the networks {self._like().dtype}: make them agree")
        f = field[1] if isinstance(field, tuple) else field(x).detach()
        if f.shape != x.shape:
            raise PhysicsError(f"the field has shape {list(f.shape)} at {len(x)} points, expected {list(x.shape)}")
        if not bool(torch.isfinite(f).all()) or not bool((f != 0).any()):
            raise PhysicsError("the field is zero everywhere, or not finite somewhere: there is nothing to split")
        self._samples = (x, f)
        return x, f


def spread_points(domain: FreeSpace, count: int, like: Tensor, shift: float = 0.0) -> Tensor:
    """About `count` evenly spread points: a shifted grid on a torus of 2 or 3 dimensions, else a Sobol sequence."""
    d = domain.d
    if isinstance(domain, Torus) and d <= 3:
        side = max(4, round(count ** (1 / d)))
        axis = (torch.arange(side, dtype=torch.float64) + 0.5 + shift) / side
        unit = torch.cartesian_prod(*[axis] * d).reshape(-1, d) % 1.0
    else:
        engine = torch.quasirandom.SobolEngine(d, scramble=True, seed=int(1000 * shift))
        unit = engine.draw(count, dtype=torch.float64)
    return domain.place(unit).to(like)
