"""From readings to rows: sums by family, residuals, the stride of single members."""

import gc
import subprocess
import sys
import textwrap
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode, in_kernel_invocation_manager

import neuromech
from neuromech.dynamics import FIELDS, Rows, relative
from neuromech.dynamics.writer import ReadingWriter, _stride
from neuromech.record import Record, read
from neuromech.record.events import Journal
from tests.families import fast


def writer(families: list[slice], members: int | None = None) -> tuple[ReadingWriter, Record]:
    record = Record(None, {})
    return ReadingWriter(record, Rows(families, members), Journal(record)), record


def test_rows_are_the_readings_summed_by_family() -> None:
    """Against a slow oracle, with families whose rows do not lie in their own order."""
    families = [slice(5, 8), slice(0, 4), slice(4, 5)]
    g = np.random.default_rng(0)
    data = g.uniform(1, 2, size=(3, len(FIELDS), 8))
    book, record = writer(families)
    for step, fields in enumerate(data):
        book.add(step, 0, 0.1, 0.1 * step, torch.tensor(fields), iteration=step)
    book.flush()
    rows = record.frame("charges").set_index(["step", "symmetry", "member"]).sort_index()
    for step, fields in enumerate(data):
        of = dict(zip(FIELDS, fields, strict=True))
        for i, family in enumerate(families):
            typical = of["scale"][family].mean()
            errors = [abs(of["exact"][r] - of["observed"][r]) / max(of["scale"][r], typical)
                      for r in range(family.start, family.stop)]  # fmt: skip
            whole = rows.loc[step, i, -1]
            assert whole["residual"] == pytest.approx(max(errors), rel=1e-14)
            for name in FIELDS:
                assert whole[name] == pytest.approx(of[name][family].sum(), rel=1e-14)
                singles = rows.loc[(step, i), name].drop(-1)
                np.testing.assert_array_equal(singles, of[name][family])
    assert record.frame("steps")["step"].tolist() == [0, 1, 2]


def test_a_few_members_are_kept_from_the_first_to_the_last() -> None:
    book, record = writer([slice(0, 100)], members=4)
    book.add(0, 0, 0.1, 0.0, torch.ones(len(FIELDS), 100, dtype=torch.float64), iteration=0)
    book.flush()
    assert record.frame("charges")["member"].tolist() == [-1, 0, 33, 66, 99]


def test_divergence_is_said_once() -> None:
    book, record = writer([slice(0, 2)])
    for step in range(4):
        book.add(step, 0, 0.1, 0.0, torch.full((len(FIELDS), 2), float("nan") if step > 1 else 1.0), iteration=step)
    book.flush()
    events = record.frame("events")
    assert events["kind"].tolist() == ["non-finite"]
    assert events["step"].tolist() == [2]


def test_no_families() -> None:
    book, record = writer([])
    book.add(0, 0, 0.1, 0.0, torch.empty(len(FIELDS), 0), iteration=0)
    book.flush()
    assert record.frame("charges").empty
    assert len(record.frame("steps")) == 1


def test_relative() -> None:
    predicted, observed = torch.tensor([2.0, 0.0, 1.0, np.nan]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    scale = torch.tensor([2.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(relative(predicted, observed, scale), [0.5, 0, np.nan, np.nan])


@given(st.integers(0, 10**7))
def test_stride_grows_with_the_run(step: int) -> None:
    """A power of two, never falling; at least 16 and at most 32 snapshots in the octave that holds the step."""
    stride = _stride(step)
    assert stride & (stride - 1) == 0
    assert _stride(step + 1) >= stride
    octave = 2 ** (max(step, 1).bit_length() - 1)
    assert octave < 32 or 16 <= octave // stride <= 32


@pytest.mark.parametrize("how", fast(["forgotten", "exit"], ["exit"]))
def test_nothing_is_lost_without_remove(tmp_path, how: str) -> None:
    """The last steps wait in memory; they reach the disk when the model goes, or Python ends."""
    script = """
        import gc, torch, neuromech
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        neuromech.instrument(model, run="run")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(6, 3)).square().sum().backward()
            optimizer.step()
        """
    forget = """
        del model, optimizer
        gc.collect()
        import os; os._exit(0)
        """
    code = textwrap.dedent(script + (forget if how == "forgotten" else ""))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert pd.read_csv(tmp_path / "run" / "steps.csv")["step"].max() == 5
    assert pd.read_csv(tmp_path / "run" / "charges.csv")["step"].max() == 5


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_lost_if_a_probe_is_forgotten_while_something_is_traced(tmp_path, deep: bool) -> None:
    """The garbage collector comes when it likes, also under a mode in which numbers do not exist."""
    run = tmp_path / "run"

    def train() -> None:
        model = torch.nn.Linear(3, 2)
        neuromech.instrument(model, run=run)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(torch.ones(4, 3)), torch.tensor([0, 1, 0, 1])).backward()
            optimizer.step()

    gc.disable()
    try:
        train()
        with FakeTensorMode() as mode, in_kernel_invocation_manager(mode) if deep else nullcontext():
            gc.collect()
    finally:
        gc.enable()
    assert set(read(run).frame("charges")["step"]) == set(range(6))


def test_slow_steps_are_written_one_by_one_and_fast_ones_together(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("neuromech.dynamics.writer.time.monotonic", lambda: clock[0])
    book, record = writer([slice(0, 1)])
    written: list[int] = []

    def costs() -> None:
        clock[0] += 0.002
        written.append(len(book._steps))

    book.beside.append(costs)

    def steps(n: int, seconds: float) -> list[int]:
        written.clear()
        for k in range(n):
            clock[0] += seconds
            book.add(k, 0, 0.1, 0.0, None, iteration=k)
            book.flush_if_due()
        return written

    assert steps(5, 0.21) == [1] * 5  # a hundred times two milliseconds
    assert set(steps(100, 0.015)) == {14}  # what adds up to that time
    assert set(steps(1_000, 1e-6)[1:]) == {64}
    assert record.tables == ["steps"]
