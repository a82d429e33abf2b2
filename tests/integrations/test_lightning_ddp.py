"""Lightning in two processes (ddp over gloo): the bits of a bare run, and the charges of a single process."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch.utils.data import DistributedSampler

import neuromech

from .test_callbacks import data, fit, module, whole

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # their warnings are not ours
WORLD, BATCH = 2, 16
Outcome = dict[str, Any]


def outcome(m: Any, probe: neuromech.Probe) -> Outcome:
    """Weights, charges of each family at each step, the worst residual, and what the probe says of itself."""
    rows = whole(probe)
    charges = torch.tensor(rows.pivot(index="step", columns="name", values="observed").to_numpy())
    return {
        "weights": m.state_dict(),
        "charges": charges,
        "families": sorted(rows["name"].unique()),
        "residual": float(rows["residual"].max()),
        "faults": len(probe.faults),
    }


def work(rank: int, port: int, folder: str) -> None:
    """One of the processes, as a launcher starts them. Every second sample, in order: else Lightning shuffles."""
    from lightning.pytorch.strategies import DDPStrategy

    from neuromech.integrations import LightningCallback

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    bare, watched = module(forward=True), module(forward=True)
    callback = LightningCallback(run=f"{folder}/run", monitor=True)
    for m, seen in ((bare, None), (watched, callback)):
        ddp, own = DDPStrategy(process_group_backend="gloo"), DistributedSampler(data(), WORLD, rank, shuffle=False)
        options = {"strategy": ddp, "devices": WORLD, "sampler": own, "use_distributed_sampler": False}
        fit(Path(folder), m, seen, batch=BATCH // WORLD, **options)
    torch.save((bare.state_dict(), outcome(watched, callback.probe)), f"{folder}/{rank}.pt")


def test_ddp_trains_alike_and_measures_what_one_process_does(tmp_path: Path) -> None:
    from neuromech.integrations import LightningCallback

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone, callback = module(forward=True), LightningCallback(monitor=True)
    fit(tmp_path, alone, callback, batch=BATCH)
    expected = outcome(alone, callback.probe)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (port, folder), nprocs=WORLD, start_method="spawn")
        results = [torch.load(f"{folder}/{rank}.pt") for rank in range(WORLD)]
        recorded = neuromech.open_run(f"{folder}/run").history
    for bare, found in results:
        assert bare.keys() == found["weights"].keys()
        assert all(torch.equal(found["weights"][name], x) for name, x in bare.items())
        assert found["families"] == expected["families"]
        assert found["charges"].shape == expected["charges"].shape
        assert torch.allclose(found["charges"], expected["charges"], rtol=1e-5, atol=1e-6)
        assert found["residual"] < 2e-6
        assert found["faults"] == 0
    assert not torch.equal(results[0][0]["net.0.weight"], module().net[0].weight)  # it trained
    assert recorded["step"].max() == expected["charges"].shape[0] - 1
