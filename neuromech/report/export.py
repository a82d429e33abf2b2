"""A run handed to other tools: every number by step, under the names that these tools sort by."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromech.errors import RecordError
from neuromech.record import Run, refuse_link

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("steps", "charges", "terms", "metrics", "events", "faults", "progress", "averages", "sides", "matrices")


def export_run(run: Run, to: str, path: Path) -> Path:
    """Write a run to the directory `path` for "tensorboard", "wandb" (offline), "parquet" or "csv"; returns it.

    Raises `RecordError` if the tool is not installed, or if nothing can be written.
    """
    refuse_link(path, run)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if to in ("parquet", "csv"):
            _tables(run, to, path)
        elif to == "tensorboard":
            _tensorboard(run, path)
        elif to == "wandb":
            _wandb(run, path)
        else:
            raise RecordError(f"there is no export to {to}: choose tensorboard, wandb, parquet or csv")
    except ImportError as error:
        package = {"parquet": "pyarrow"}.get(to, to)
        raise RecordError(
            f"exporting to {to} needs a package that is missing: pip install {package} ({str(error).splitlines()[0]})"
        ) from error
    except OSError as error:
        raise RecordError(f"cannot write to {path}: {error}. Choose another directory") from error
    return path


def scalars(run: Run) -> Iterator[tuple[str, pd.DataFrame]]:
    """Tag and (step, value) of every series: logged numbers, learning rate, charges and residuals of whole families."""
    metrics = run.frame("metrics")
    if len(metrics):
        for name, rows in metrics.groupby("name", sort=False):
            yield f"metrics/{name}", rows[["step", "value"]]
    steps = run.frame("steps")
    if len(steps):
        yield "optimizer/lr", steps[["step", "lr"]].rename(columns={"lr": "value"})
    charges = run.frame("charges")
    if len(charges):
        names = [str(s.get("name")) for s in run.meta.get("symmetries") or ()]
        for _, rows in charges[charges["member"] < 0].groupby("symmetry"):
            i = int(rows["symmetry"].iloc[0])
            name = names[i] if i < len(names) else f"symmetry {i}"
            for column in ("observed", "exact", "residual"):
                if column in rows and rows[column].notna().any():
                    yield f"charges/{name}/{column}", rows[["step", column]].rename(columns={column: "value"})


def _tables(run: Run, to: str, path: Path) -> None:
    for table in TABLES:
        rows = run.frame(table)
        if len(rows) and to == "parquet":
            rows.to_parquet(path / f"{table}.parquet", index=False)
        elif len(rows):
            for column in rows.select_dtypes(exclude="number"):
                rows[column] = [_harmless(x) for x in rows[column]]
            rows.to_csv(path / f"{table}.csv", index=False)


def _harmless(text: Any) -> Any:
    """A text that a spreadsheet would take for a formula, as text."""
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _tensorboard(run: Run, path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(path))
    for tag, rows in scalars(run):
        for step, value in zip(rows["step"], rows["value"], strict=True):
            writer.add_scalar(tag, float(value), int(step))
    writer.close()


def _wandb(run: Run, path: Path) -> None:
    wandb: Any = importlib.import_module("wandb")

    name = str(run.meta.get("name") or (run.path.name if run.path else "run"))
    live: Any = wandb.init(project="neuromech", name=name, dir=str(path), mode="offline", config=dict(run.meta))
    by_step: dict[int, dict[str, float]] = {}
    for tag, rows in scalars(run):
        for step, value in zip(rows["step"], rows["value"], strict=True):
            by_step.setdefault(int(step), {})[tag] = float(value)
    for step in sorted(by_step):
        live.log(by_step[step], step=step)
    live.finish()
