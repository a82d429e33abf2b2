"""The instrument as a callback of Hugging Face's Trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuromech.errors import InstrumentError
from neuromech.integrations.shim import Shim, Watch, Which
from neuromech.probe import Probe

try:
    import transformers
    from transformers import TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise InstrumentError("TrainerCallback needs transformers: pip install 'neuromech[hf]'") from error

FILE = "neuromech-probe.pt"


class TrainerCallback(transformers.TrainerCallback):
    """`Trainer(..., callbacks=[TrainerCallback(run="runs/a")])`: instruments the model that is trained.

    `model`: a part of it, as "transformer" or a function of the model; None: all of it. `monitor`: True, what to do at
    a fault ("warn", "raise", a function of it), or a mapping of the arguments of `probe.monitor()`. `log`: add
    `probe.scalars()` to what the trainer logs (its history, and the callbacks behind this one). `options`: those of
    `neuromech.instrument`. Checkpoints hold its state, in a file of their own: `train(resume_from_checkpoint=...)`
    goes on exactly. `checkpoint`: the directory to go on from, if it has been moved out of the output directory.
    `probe`: the probe, from the start of the training.

    Raises what `instrument` raises.
    """

    def __init__(
        self,
        model: Which = None,
        *,
        monitor: Watch = False,
        log: bool = True,
        checkpoint: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self._shim, self._log, self._checkpoint = Shim(model, monitor, options), log, checkpoint

    @property
    def probe(self) -> Probe | None:
        return self._shim.probe

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """The trainer has loaded weights and optimizer by now, if it resumes."""
        resumed = state.global_step > 0
        if resumed and (path := self._find(args, state.global_step)) is not None:
            self._shim.saved = torch.load(path, weights_only=True)
        assert model is not None  # the trainer passes it
        self._shim.begin(model, resumed)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        saved = self._shim.state()  # on every process: sums of what is sharded are taken together
        if args.should_save and saved:
            folder = _checkpoint(args, state.global_step)
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(saved, folder / FILE)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if self._log and logs is not None and "loss" in logs and state.is_world_process_zero:
            numbers = self._shim.numbers()
            logs.update(numbers)
            state.log_history[-1].update(numbers)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._shim.end()

    def _find(self, args: TrainingArguments, step: int) -> Path | None:
        given = (self._checkpoint, args.resume_from_checkpoint, _checkpoint(args, step))
        places = [Path(str(place)) / FILE for place in given if place]
        return next((path for path in places if path.is_file()), None)


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{step}"
