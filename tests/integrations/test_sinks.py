"""Numbers of a run, told to the real loggers as it goes on."""

import json
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech import InstrumentError, NeuromechWarning


def train(steps: int = 3, **options: object) -> neuromech.Probe:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    probe = neuromech.instrument(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return probe


def test_a_function_gets_the_scalars_of_every_recorded_step() -> None:
    told: list[tuple[dict[str, float], int]] = []
    probe = train(4, every=2, to=lambda numbers, step: told.append((numbers, step)))
    assert [step for _, step in told] == [2, 4]
    assert told[-1][0] == probe.scalars()
    assert 0 < len(told[0][0]) <= 30
    assert all(isinstance(x, float) for x in told[0][0].values())


def test_several_sinks_and_one_that_fails() -> None:
    told: list[int] = []
    with pytest.warns(NeuromechWarning, match="takes no more numbers from step 1 on"):
        probe = train(3, to=[lambda numbers, step: 1 / 0, lambda numbers, step: told.append(step)])
    assert told == [1, 2, 3]
    assert probe.history["step"].max() == 3
    assert "sink" in set(probe.events["kind"])


def test_what_is_no_sink() -> None:
    with pytest.raises(InstrumentError, match="to= takes a SummaryWriter"):
        train(to=3)


def test_tensorboard(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(tmp_path)) as writer:
            probe = train(3, to=writer)
        read = EventAccumulator(str(tmp_path))
        read.Reload()
    tags = read.Tags()["scalars"]
    assert set(tags) == {f"neuromech/{tag}" for tag in probe.scalars()}
    for tag, x in probe.scalars().items():
        seen = read.Scalars(f"neuromech/{tag}")
        assert [e.step for e in seen] == [1, 2, 3]
        assert seen[-1].value == pytest.approx(x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_and_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    mlflow.set_experiment("e")
    client = mlflow.MlflowClient()
    for to in (mlflow, client):
        with mlflow.start_run() as run:
            probe = train(3, to=to)
        for tag, x in probe.scalars().items():
            seen = client.get_metric_history(run.info.run_id, f"neuromech/{tag}")
            assert [m.step for m in seen] == [1, 2, 3]
            assert seen[-1].value == x
    with pytest.warns(NeuromechWarning, match="no run of MLflow is active"):
        train(2, to=client)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("logs", [0, 1, 2], ids=["silent", "once a step", "twice a step"])
def test_wandb_offline(tmp_path: Path, logs: int) -> None:
    """Whatever the user logs beside: no row of ours is lost, and the user's steps are as without us if they log."""
    wandb = pytest.importorskip("wandb")
    run = wandb.init(project="p", dir=str(tmp_path), mode="offline", settings=wandb.Settings(silent=True))
    counted: list[int] = []

    def user(numbers: dict[str, float], step: int) -> None:
        for _ in range(logs):
            run.log({"mine": step})
        counted.append(run.step)

    probe = train(3, to=[run, user])
    expected = probe.scalars()
    run.finish()
    rows = history(tmp_path)
    ours = [row for row in rows if "neuromech/step" in row]
    assert [row["neuromech/step"] for row in ours] == [1, 2, 3]
    assert {k: ours[-1][f"neuromech/{k}"] for k in expected} == pytest.approx(expected)
    if logs:
        assert counted == [logs, 2 * logs, 3 * logs]
        assert sum("mine" in row for row in rows) == 3 * logs


def history(folder: Path) -> list[dict[str, float]]:
    """The rows that W&B has written."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.rglob("*.wandb")
    for _ in range(100):  # a process of its own writes, and finish() does not wait for its disk
        records = [wandb_internal_pb2.Record.FromString(data) for data in chunks(path.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.1)
    kept = [r.history.item for r in records if r.WhichOneof("record_type") == "history"]
    return [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items} for items in kept]


def chunks(log: bytes) -> Iterator[bytes]:
    """The records of a log in the format of LevelDB: blocks of 32 KiB, in them crc (4), length (2), type (1), data."""
    at, parts = 7, b""  # behind the header
    while at + 7 <= len(log):
        if (room := 2**15 - at % 2**15) < 7:
            at += room
            continue
        n, kind = struct.unpack_from("<HB", log, at + 4)
        parts += log[at + 7 : at + 7 + n]
        at += 7 + n
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""
