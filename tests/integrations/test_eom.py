"""EoMOptimizer in the loops of Lightning, of Hugging Face's Trainer and of Accelerate, where these are installed."""

import copy

import pytest
import torch
from torch import nn

from neuromech import EoMError, EoMOptimizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # their warnings are not ours


def data():
    torch.manual_seed(0)
    return torch.randn(64, 4).double(), torch.randn(64, 2).double()


def small_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def close(a, b, tolerance=1e-13) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


def by_hand(batch: int, epochs: int = 3, backend="gradients"):
    """The same run in a loop of one's own, with large batches."""
    net, (x, y) = small_net(), data()
    optimizer = EoMOptimizer(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5), backend=backend)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(epochs):
        for a, b in zip(x.split(batch), y.split(batch), strict=True):
            optimizer.step(lambda a=a, b=b: (net(a) - b).square().mean())
        schedule.step()
    return net


def lightning_run(tmp_path, accumulate: int = 1, shim: bool = False, manual: bool = False, **more):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()
            self.automatic_optimization = not manual

        def loss(self, batch):
            x, y = batch
            return (self.net(x) - y).square().mean()

        def training_step(self, batch, index):
            if not manual:
                return self.loss(batch)
            optimizer = self.optimizers()
            if (index + 1) % accumulate:
                optimizer.accumulate(lambda: self.loss(batch))
            else:  # Lightning passes a closure that does nothing where one passes none
                optimizer.step(lambda: self.loss(batch))
            return None

        def on_train_epoch_end(self) -> None:
            if manual:
                self.lr_schedulers().step()

        def configure_optimizers(self):
            optimizer = EoMOptimizer(torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5))
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}

    from neuromech.integrations import EoMAccumulation

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=16)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, accumulate_grad_batches=1 if manual else accumulate,
        callbacks=[EoMAccumulation()] if shim else [], **more,
    )  # fmt: skip
    trainer.fit(module, loader)
    return module.net


def test_lightning(tmp_path) -> None:
    """Its closures run backward themselves, and return a detached loss."""
    close(lightning_run(tmp_path), by_hand(16), 0)
    close(lightning_run(tmp_path, shim=True), by_hand(16), 0)


def test_lightning_accumulates_with_the_callback_and_is_refused_without(tmp_path) -> None:
    close(lightning_run(tmp_path, 2, shim=True), by_hand(32))
    with pytest.raises(EoMError, match="accumulate"):
        lightning_run(tmp_path, 2)
    with pytest.raises(EoMError, match="gradient_clip_val"):
        lightning_run(tmp_path, 2, shim=True, gradient_clip_val=0.1)


def test_lightning_by_hand(tmp_path) -> None:
    close(lightning_run(tmp_path, 2, manual=True), by_hand(32))


def bert(dropout: float):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def hugging_face(tmp_path, model, batch: int, accumulate: int, order: int | None = 1, **more):
    """`order` None: plain SGD in the plain Trainer."""
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    from neuromech.integrations import EoMTrainer

    torch.manual_seed(0)
    rows = [{"input_ids": torch.randint(0, 50, (6,)), "labels": torch.tensor(i % 2)} for i in range(32)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if order is not None:
        optimizer = EoMOptimizer(optimizer, order, backend="gradients")
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True, **{"max_grad_norm": 0.0, **more},
    )  # fmt: skip

    def loss(outputs, labels, num_items_in_batch):  # the model's own takes no notice of micro-batches
        return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    kind = transformers.Trainer if order is None else EoMTrainer
    trainer = kind(model, arguments, train_dataset=rows, optimizers=(optimizer, None), compute_loss_func=loss)
    return optimizer, trainer.train()


def test_hugging_face(tmp_path) -> None:
    model = bert(0.0)
    other, plain, zero = (copy.deepcopy(model) for _ in range(3))
    optimizer, out = hugging_face(tmp_path, model, 4, 2)
    assert optimizer.steps == 8
    assert 0.6 < out.training_loss < 0.8
    hugging_face(tmp_path, other, 8, 1)
    close(model, other, 1e-6)
    (_, theirs), (_, ours) = hugging_face(tmp_path, plain, 4, 2, None), hugging_face(tmp_path, zero, 4, 2, 0)
    close(plain, zero, 1e-7)
    assert theirs.training_loss == pytest.approx(ours.training_loss, rel=1e-6)


def test_hugging_face_with_dropout_and_without_clipping(tmp_path) -> None:
    model = bert(0.1)
    before = model.classifier.weight.detach().clone()
    optimizer, _ = hugging_face(tmp_path, model, 4, 2)
    assert optimizer.steps == 8
    assert not torch.equal(model.classifier.weight, before)
    with pytest.raises(EoMError, match="max_grad_norm=0"):
        hugging_face(tmp_path, bert(0.1), 8, 1, max_grad_norm=1.0)


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate")
    from neuromech.integrations import accumulate

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    net, (x, y) = small_net(), data()
    inner = EoMOptimizer(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5))
    prepared, optimizer = accelerator.prepare(net, inner)
    schedule = torch.optim.lr_scheduler.StepLR(inner, 2)
    for _ in range(3):
        for a, b in zip(x.split(16), y.split(16), strict=True):
            with accelerator.accumulate(prepared):
                accumulate(optimizer, lambda a=a, b=b: (prepared(a) - b).square().mean())
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()
    close(net, by_hand(32))
    with pytest.raises(EoMError, match="belongs to EoMOptimizer"):
        accumulate(torch.optim.SGD(net.parameters(), lr=0.1), lambda: None)
