"""What `test_callbacks` runs as a user's script: Lightning starts it once more for the second process."""

import sys
import warnings
from pathlib import Path

import torch

from integrations.test_callbacks import fit, module, whole
from neuromech.integrations import LightningCallback

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    how = {"strategy": "ddp", "devices": 2}
    fit(folder, bare := module(), **how)
    callback = LightningCallback(run=folder / "run")
    trainer = fit(folder, watched := module(), callback, **how)
    out = {"bare": bare.state_dict(), "watched": watched.state_dict(), "world": trainer.world_size}
    rows = whole(callback.probe)
    out["charges"] = {(r.step, r.name): (r.observed, r.residual) for r in rows.itertuples()}
    torch.save(out, folder / f"{trainer.global_rank}.pt")
