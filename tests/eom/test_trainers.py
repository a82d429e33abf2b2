"""EoMOptimizer inside of Lightning and of Hugging Face's Trainer, where these are installed."""

import pytest
import torch
from torch import nn

from neuromech import EoMOptimizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # their warnings are not ours


def test_lightning(tmp_path) -> None:
    """Its closures run backward themselves, and return a detached loss."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()

        def training_step(self, batch, index):
            x, y = batch
            return (self.net(x) - y).square().mean()

        def configure_optimizers(self):
            optimizer = EoMOptimizer(torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5))
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}

    x, y = torch.randn(64, 4).double(), torch.randn(64, 2).double()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    module = Module()
    start = [p.detach().clone() for p in module.parameters()]
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader)
    # The same run in a loop of one's own.
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        for p, value in zip(net.parameters(), start, strict=True):
            p.copy_(value)
    optimizer = EoMOptimizer(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        for a, b in loader:
            optimizer.step(lambda a=a, b=b: (net(a) - b).square().mean())
        schedule.step()
    for p, q in zip(module.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-8)


def test_hugging_face(tmp_path) -> None:
    """Its loop calls step() without a closure: the attribute is set where the batch is known."""
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    model = transformers.BertForSequenceClassification(config)
    data = [{"input_ids": torch.randint(0, 50, (6,)), "labels": torch.tensor(i % 2)} for i in range(32)]
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), backend="gradients")

    class Trainer(transformers.Trainer):
        def training_step(self, model, inputs, *args, **kwargs):
            batch = self._prepare_inputs(dict(inputs))
            optimizer.closure = lambda: self.compute_loss(model, dict(batch))
            return super().training_step(model, inputs, *args, **kwargs)

    before = model.classifier.weight.detach().clone()
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)).train()
    assert optimizer.steps == 8
    assert not torch.equal(model.classifier.weight, before)
