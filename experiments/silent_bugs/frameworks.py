"""Clean runs in loops of other people: Lightning, transformers, Accelerate, peft, DDP, FSDP2; and of experts."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import Watched, data, loss_of, perceptron, steps, tokens

STEPS = 12
FRAMEWORKS: dict[str, tuple[str, Callable[[int], Watched]]] = {}


def framework(needs: str) -> Callable[[Callable[[int], Watched]], Callable[[int], Watched]]:
    def enter(make: Callable[[int], Watched]) -> Callable[[int], Watched]:
        FRAMEWORKS[make.__name__.replace("_", " ")] = needs, make
        return make

    return enter


def frameworks() -> Iterator[tuple[str, Callable[[int], Watched]]]:
    """(name, run), of those whose library is installed."""
    for name, (needs, make) in FRAMEWORKS.items():
        if importlib.util.find_spec(needs):
            yield name, make


def _adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)


@framework("lightning")
def lightning_loop(seed: int) -> Watched:
    import lightning

    model, (x, y) = perceptron(seed, norm=True), data()

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: Any, k: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return _adamw(self)

    watched = Watched(model)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", enable_model_summary=False, gradient_clip_val=1.0, **quiet
    )
    trainer.fit(Module(), loader)
    return watched


def _llama(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 20}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "use_cache": False}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads))


@framework("transformers")
def trainer_of_transformers(seed: int) -> Watched:
    from transformers import Trainer, TrainingArguments

    model = _llama(seed)
    rows = [{"input_ids": ids, "labels": ids} for ids in tokens(64, seed)]
    watched = Watched(model)
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            directory, max_steps=STEPS, per_device_train_batch_size=8, use_cpu=True, report_to=[], save_strategy="no",
            gradient_accumulation_steps=1 + seed % 2, disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()
    return watched


@framework("accelerate")
def accelerate_in_bf16(seed: int) -> Watched:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    model, (x, y) = perceptron(seed, norm=True), data()
    optimizer = _adamw(model)
    watched = Watched(model)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        accelerator.backward(loss_of(prepared, k, x, y))
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
    return watched
    return watched


@framework("peft")
def adapters_of_low_rank(seed: int) -> Watched:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_llama(seed), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1))
    watched, optimizer = Watched(model), _adamw(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        ids = tokens(8, k)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return watched
    return watched


class Mixture(nn.Module):
    """The two likeliest of four experts for each row (Shazeer et al. 2017)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.router = nn.Linear(12, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in range(4))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.router(x).softmax(-1).topk(2)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            row, place = (chosen == i).nonzero(as_tuple=True)
            if len(row):
                out = out.index_add(0, row, weight[row, place, None] * expert(x[row]))
        logits: Tensor = self.head(out + x)
        return logits


@framework("torch")
def mixture_of_experts(seed: int) -> Watched:
    model = Mixture(seed)
    watched = Watched(model)
    steps(watched, model, _adamw(model), 3 * STEPS)
    return watched


def _alone(seed: int, wrap: Callable[[nn.Module], nn.Module]) -> Watched:
    """In a process group of one: what wrappers do to gradients and parameters they do there as well."""
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as directory:
        dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=0, world_size=1)
        try:
            wrapped = wrap(perceptron(seed))
            watched = Watched(wrapped)
            steps(watched, wrapped, _adamw(wrapped), STEPS)
        finally:
            dist.destroy_process_group()
    return watched


@framework("torch")
def distributed_data_parallel(seed: int) -> Watched:
    return _alone(seed, nn.parallel.DistributedDataParallel)


def _sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


@framework("torch")
def fully_sharded(seed: int) -> Watched:
    return _alone(seed, _sharded)
