"""The instrument in loops of Lightning, of Hugging Face's Trainer and of Accelerate: the same bits as without it."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import neuromech
from neuromech import InstrumentError, NeuromechWarning

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # their warnings are not ours


def data() -> TensorDataset:
    g = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(64, 4, generator=g), torch.randint(0, 3, (64,), generator=g))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# -- Lightning ------------------------------------------------------------------------------------------------------


def module(manual: bool = False, forward: bool = False) -> Any:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()
            self.automatic_optimization = not manual

        def _through(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            loss = F.cross_entropy(self(x) if forward else self.net(x), y)
            if not manual:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None

        def validation_step(self, batch: Any, index: int) -> None:
            x, y = batch
            self.log("val", F.cross_entropy(self.net(x), y))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    if forward:
        Module.forward = Module._through
    return Module()


def fit(folder: Path, m: Any, callback: Any = None, epochs: int = 2, **options: Any) -> Any:
    import lightning.pytorch as pl

    options = {"logger": False} | options
    go_on, batch, sampler = options.pop("ckpt_path", None), options.pop("batch", 16), options.pop("sampler", None)
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=epochs, accelerator="cpu", callbacks=[callback] if callback else [],
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    training = DataLoader(data(), batch_size=batch, sampler=sampler)
    trainer.fit(m, training, DataLoader(data(), batch_size=batch), ckpt_path=go_on)
    return trainer


def whole(probe: neuromech.Probe) -> Any:
    rows = probe.history
    return rows[rows["member"] == -1]


LOOPS = [{}, {"manual": True}, {"forward": True}]


@pytest.mark.parametrize("how", LOOPS, ids=str)
@pytest.mark.parametrize("part", ["net", None], ids=str)
def test_lightning_trains_alike(tmp_path: Path, how: dict[str, bool], part: str | None) -> None:
    from neuromech.integrations import LightningCallback

    bare, watched = module(**how), module(**how)
    fit(tmp_path, bare)
    callback = LightningCallback(part, run=tmp_path / "run", monitor=True)
    fit(tmp_path, watched, callback)
    assert equal(bare, watched)
    rows = whole(callback.probe)
    assert rows["step"].max() == 8
    assert rows["residual"].max() < 2e-6
    assert {s.kind for s in callback.probe.symmetries} == {"scale", "rescale", "translation"}
    assert callback.probe.faults.empty
    assert len(neuromech.open_run(tmp_path / "run").history) == len(callback.probe.history)
    assert not watched.net._forward_hooks


@pytest.mark.parametrize(
    "how",
    [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}],
    ids=str,
)
def test_options_of_the_trainer(tmp_path: Path, how: dict[str, Any]) -> None:
    from neuromech.integrations import LightningCallback

    bare, watched = module(), module()
    fit(tmp_path, bare, **how)
    fit(tmp_path, watched, callback := LightningCallback("net", monitor=True), **how)
    assert equal(bare, watched)
    assert whole(callback.probe)["residual"].max() < (1e-3 if "precision" in how else 2e-6)
    assert callback.probe.faults.empty


def test_lightning_goes_on_to_the_bit(tmp_path: Path) -> None:
    from neuromech.integrations import LightningCallback

    through = LightningCallback("net")
    fit(tmp_path, whole_run := module(), through, epochs=4)
    first = LightningCallback("net", run=tmp_path / "run")
    trainer = fit(tmp_path, module(), first, epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = LightningCallback("net", run=tmp_path / "run")
    fit(tmp_path, resumed := module(), second, epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert equal(whole_run, resumed)
    expected, found = through.probe.history, neuromech.open_run(tmp_path / "run").history
    for column in ("step", "observed", "exact", "ideal", "flow", "continuous"):
        assert (expected[column].to_numpy() == found[column].to_numpy()).all()


def test_lightning_sends_scalars_to_its_loggers(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    from neuromech.integrations import LightningCallback

    logger = CSVLogger(tmp_path)
    fit(tmp_path, module(), callback := LightningCallback("net"), logger=logger, log_every_n_steps=2)
    import pandas as pd

    rows = pd.read_csv(Path(logger.log_dir) / "metrics.csv")
    column = next(c for c in rows if c.startswith("neuromech/residual/"))
    assert list(rows["step"][rows[column].notna()]) == [2, 4, 6, 8]
    assert callback.probe is not None


def test_lightning_says_what_is_wrong(tmp_path: Path) -> None:
    from neuromech.integrations import LightningCallback

    with pytest.raises(InstrumentError, match="Pass the attribute that holds it"):
        fit(tmp_path, module(), LightningCallback("nett"))


def test_a_training_that_fails_is_recorded_as_failed(tmp_path: Path) -> None:
    from neuromech.integrations import LightningCallback

    m = module()
    m.on_train_epoch_end = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, m, LightningCallback("net", run=tmp_path / "run"))
    run = neuromech.open_run(tmp_path / "run")
    assert run.history["step"].max() == 4
    assert "ZeroDivisionError" in str(run._run.sessions[-1]["ended"])


@pytest.mark.parametrize(
    ("ours", "theirs", "extra"),
    [("lightning", ("lightning.pytorch", "pytorch_lightning"), "lightning"), ("trainer", ("transformers",), "hf")],
)
def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, ours: str, theirs: tuple[str, ...], extra: str
) -> None:
    for name in theirs:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"neuromech.integrations.{ours}", raising=False)
    with pytest.raises(InstrumentError, match=re.escape(f"pip install 'neuromech[{extra}]'")):
        importlib.import_module(f"neuromech.integrations.{ours}")


# -- Hugging Face ---------------------------------------------------------------------------------------------------


def language_model() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return transformers.GPT2LMHeadModel(config)


def texts() -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 32, (32, 12), generator=g)
    return [{"input_ids": row, "labels": row} for row in ids]


def trainer(folder: Path, model: nn.Module, callback: Any = None, **options: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    options = {"max_steps": 8, "per_device_train_batch_size": 4, "save_strategy": "no", "logging_steps": 2} | options
    args = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, seed=3, learning_rate=1e-3, **options
    )
    return Trainer(model=model, args=args, train_dataset=texts(), callbacks=[callback] if callback else [])


@pytest.mark.parametrize(
    "how",
    [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}, {"optim": "sgd"}, {"gradient_checkpointing": True}],
    ids=str,
)
def test_the_trainer_trains_alike(tmp_path: Path, how: dict[str, Any]) -> None:
    from neuromech.integrations import TrainerCallback

    trainer(tmp_path, bare := language_model(), **how).train()
    callback = TrainerCallback(monitor=True)
    run = trainer(tmp_path, watched := language_model(), callback, **how)
    run.train()
    assert equal(bare, watched)
    rows = whole(callback.probe)
    assert rows["step"].max() == 8
    assert len(callback.probe.symmetries) > 3
    assert rows["residual"].max() < (5e-3 if "bf16" in how else 2e-6)
    assert callback.probe.faults.empty
    logged = [row for row in run.state.log_history if "loss" in row]
    assert len(logged) == 4
    assert all(any(key.startswith("neuromech/residual/") for key in row) for row in logged)


def test_the_trainer_goes_on_to_the_bit(tmp_path: Path) -> None:
    from neuromech.integrations import TrainerCallback

    through = TrainerCallback()
    trainer(tmp_path / "a", whole_run := language_model(), through, max_steps=8).train()
    saving = {"save_strategy": "steps", "save_steps": 4}
    first = TrainerCallback(run=tmp_path / "run")
    trainer(tmp_path / "b", language_model(), first, max_steps=8, **saving).train()
    second = TrainerCallback(run=tmp_path / "run")
    folder = tmp_path / "b" / "checkpoint-4"
    run = trainer(tmp_path / "b", resumed := language_model(), second, max_steps=8, **saving)
    run.train(resume_from_checkpoint=str(folder))
    assert equal(whole_run, resumed)
    expected, found = through.probe.history, neuromech.open_run(tmp_path / "run").history
    for column in ("step", "observed", "exact", "ideal", "flow", "continuous"):
        assert (expected[column].to_numpy() == found[column].to_numpy()).all()
    (folder / "neuromech-probe.pt").unlink()
    run = trainer(tmp_path / "b", language_model(), TrainerCallback(), max_steps=8, **saving)
    with pytest.warns(NeuromechWarning, match="holds no state of the instrument"):
        run.train(resume_from_checkpoint=str(folder))


# -- Accelerate -----------------------------------------------------------------------------------------------------


def accelerated(folder: Path, instrumented: bool, half: bool = False, resume: bool = False, **options: Any) -> Any:
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data(), batch_size=16))
    probe = None
    if instrumented:  # the recipe
        probe = neuromech.instrument(model)
        accelerator.register_for_checkpointing(probe)
    if resume:
        accelerator.load_state(str(folder))
    for epoch in range(4):
        if resume and epoch < 2:
            continue
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
        if half and epoch == 1:
            accelerator.save_state(str(folder))
            break
    return accelerator.unwrap_model(model), probe


@pytest.mark.parametrize(
    "how", [{}, {"gradient_accumulation_steps": 2}, {"mixed_precision": "bf16"}], ids=lambda how: str(how) or "plain"
)
def test_accelerate_trains_alike(tmp_path: Path, how: dict[str, Any]) -> None:
    bare, _ = accelerated(tmp_path, False, **how)
    watched, probe = accelerated(tmp_path, True, **how)
    assert equal(bare, watched)
    assert whole(probe)["step"].max() == (8 if "gradient_accumulation_steps" in how else 16)
    assert whole(probe)["residual"].max() < (5e-3 if "mixed_precision" in how else 2e-6)


def test_accelerate_goes_on_to_the_bit(tmp_path: Path) -> None:
    expected, through = accelerated(tmp_path / "a", True)
    accelerated(tmp_path / "b", True, half=True)
    resumed, probe = accelerated(tmp_path / "b", True, resume=True)
    assert equal(expected, resumed)
    rows, found = whole(through), whole(probe)
    rows = rows[rows["step"] > 8].reset_index(drop=True)
    assert (rows[["observed", "exact"]].to_numpy() == found[["observed", "exact"]].to_numpy()).all()


# -- peft -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"lora_dropout": 0.1}, {"use_dora": True}], ids=str)
def test_peft(how: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")

    def run(instrumented: bool) -> tuple[nn.Module, neuromech.Probe | None]:
        config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, **how)
        model = peft.get_peft_model(language_model(), config)
        probe = neuromech.instrument(model) if instrumented else None
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        batch = {k: torch.stack([t[k] for t in texts()[:4]]) for k in ("input_ids", "labels")}
        torch.manual_seed(7)
        for _ in range(4):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        return model, probe

    (bare, _), (watched, probe) = run(False), run(True)
    assert equal(bare, watched)
    assert {s.kind for s in probe.symmetries} >= {"rescale"}
    assert whole(probe)["residual"].max() < 2e-6
