"""Data of others: PDEBench's HDF5 files, and the pickles of Hamiltonian networks."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy.data import Trajectories


@dataclass(frozen=True)
class Gridded:
    """Fields on a regular grid: `trajectories.u` [N, T, c, X, ...] (no channel axis if there is one field).

    `dx`: the spacing of each axis of the grid. `fields`: a name a channel.
    """

    trajectories: Trajectories
    dx: tuple[float, ...]
    fields: tuple[str, ...]

    @property
    def path(self) -> Tensor:
        """[T, N, X, ..., c], channels last: what `audit(None, ..., kind="path", dx=...)` takes."""
        u = self.trajectories.u.transpose(0, 1)
        return u if len(self.fields) == 1 else u.movedim(2, -1)


def load_pdebench(
    path: str | Path,
    fields: Sequence[str] | None = None,
    samples: slice | None = None,
    dtype: torch.dtype = torch.float32,
) -> Gridded:
    """A file of PDEBench (Takamoto et al. 2022), in any of its three layouts.

    One array "tensor" [N, T, X, ...]; one array a field [N, T, X, ...] ("density", "Vx", ...); or one group a sample
    with "data" [T, X, ..., c] and "grid". `fields`: of the second layout, which ones; None: all. `samples`: some alone.
    Needs h5py (neuromech[data]). Raises `PhysicsError` for a file that is none of these, saying what is in it.
    """
    path = Path(path)
    if not path.is_file():
        raise PhysicsError(f"there is no file {path}")
    try:
        import h5py
    except ImportError as error:
        raise PhysicsError("HDF5 files are read by h5py: pip install neuromech[data]") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise PhysicsError(f"{path} is not an HDF5 file, or is damaged ({error})") from error
    rows = samples or slice(None)
    one: tuple[str, ...] = ("tensor",)
    with file:
        keys = sorted(file)
        if "tensor" in file:
            names, u = one, np.asarray(file["tensor"][rows])
            grid = {k: np.asarray(file[k]) for k in keys if k.endswith("-coordinate")}
        elif any(k.isdigit() for k in keys):
            groups = [file[k] for k in keys if k.isdigit()][rows]
            u = np.moveaxis(np.stack([np.asarray(g["data"]) for g in groups]), -1, 2)
            names = tuple(f"channel {k}" for k in range(u.shape[2]))
            grid = {f"{k}-coordinate": np.asarray(groups[0]["grid"][k]) for k in groups[0]["grid"]}
        else:
            grid = {k: np.asarray(file[k]) for k in keys if k.endswith("-coordinate")}
            there = [k for k in keys if k not in grid and file[k].ndim >= 3]
            names = tuple(fields or there)
            if not names or any(k not in there for k in names):
                raise PhysicsError(
                    f'{path} holds {", ".join(keys) or "nothing"}; expected "tensor", fields, or groups of samples'
                )
            u = np.stack([np.asarray(file[k][rows]) for k in names], 2)
    return _gridded(path, u, names, grid, dtype)


def _gridded(path: Path, u: Any, names: tuple[str, ...], grid: dict[str, Any], dtype: torch.dtype) -> Gridded:
    if len(names) == 1 and u.ndim > 3 and u.shape[2] == 1:
        u = u[:, :, 0]
    axes = u.ndim - 2 - (len(names) > 1)
    spacings = []
    for name, length in zip("xyz", u.shape[u.ndim - axes :], strict=False):
        x = grid.get(f"{name}-coordinate")
        steps = np.diff(x) if x is not None and len(x) > 1 else None
        if steps is None or not np.allclose(steps, steps[0], rtol=1e-3):
            raise PhysicsError(f"{path} has no regular {name}-coordinate for its axis of {length} cells")
        spacings.append(float(np.mean(steps)))
    t = grid.get("t-coordinate")
    if t is None or len(t) < u.shape[1]:
        raise PhysicsError(f"{path} has no t-coordinate for {u.shape[1]} times")
    times = torch.as_tensor(np.asarray(t[: u.shape[1]], dtype=np.float64)).to(dtype)
    return Gridded(Trajectories(times, torch.as_tensor(u).to(dtype)), tuple(spacings), names)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numbers and arrays and nothing else: a pickle can run any code."""

    SAFE = frozenset({"ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if name in self.SAFE and module.split(".")[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise PhysicsError(
            f"the pickle asks for {module}.{name}; data are arrays in dictionaries, and no more is loaded"
        )


def load_hnn(path: str | Path) -> dict[str, Tensor]:
    """The arrays of a pickle of Greydanus et al. (2019), by name: states "x" or "coords", rates "dx" or "dcoords" ...

    Raises `PhysicsError` for a file that is no such pickle; code in it is not run.
    """
    path = Path(path)
    if not path.is_file():
        raise PhysicsError(f"there is no file {path}")
    try:
        found = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
    except PhysicsError:
        raise
    except Exception as error:
        raise PhysicsError(f"{path} is not a pickle, or is damaged ({error})") from error
    arrays = {k: v for k, v in found.items() if isinstance(v, np.ndarray)} if isinstance(found, dict) else {}
    if not arrays:
        raise PhysicsError(
            f"{path} holds {type(found).__name__}; expected a dictionary of arrays, as the HNN code writes"
        )
    return {str(k): torch.as_tensor(v) for k, v in arrays.items() if v.dtype.kind in "fiub"}
