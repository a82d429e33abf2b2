"""What the instrument costs where several processes train one model: an instrumented step against a bare one.

    python -m experiments.benchmarks.processes [--rounds 15] [--world 2]

A transformer of four layers under AdamW, on gloo, one thread a process, by DistributedDataParallel and by fully_shard;
all families at every step, and at every tenth (rounds are of ten steps). Contenders take turns, in an order that is the
same in all processes. What is printed are medians of paired ratios of the CPU time of all processes, with their
quartiles.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

import neuromech
from experiments.benchmarks.models import Transformer
from experiments.benchmarks.overhead import adamw, ratio, tokens, training_step

STEPS = 10  # a round
WANTED = {"every step": 1.05, "every 10 steps": 1.01}


def replicated(model: Transformer) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def sharded(model: Transformer) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


KINDS: dict[str, Callable[[Transformer], nn.Module]] = {"DistributedDataParallel": replicated, "FSDP2": sharded}


def runs(parallel: Callable[[Transformer], nn.Module], batch: tuple[Tensor, Tensor]) -> dict[str, Callable[[], None]]:
    """Training runs as functions that take their next step."""
    steps = {}
    for name, every in {"bare": 0, "every step": 1, "every 10 steps": 10}.items():
        torch.manual_seed(0)
        model = parallel(Transformer())
        if every:
            neuromech.instrument(model, every=every)
        steps[name] = training_step(model, adamw(model), *batch)
    return steps


def measure(rank: int, world: int, rounds: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.manual_seed(rank)
    for kind, parallel in KINDS.items():
        steps, draw = runs(parallel, tokens()), random.Random(0)
        order = list(steps)
        seconds = torch.zeros(rounds, len(order), dtype=torch.float64)
        for k in range(-1, rounds):
            for i in draw.sample(range(len(order)), len(order)):
                start = time.process_time()
                for _ in range(STEPS):
                    steps[order[i]]()
                if k >= 0:
                    seconds[k, i] = time.process_time() - start
        dist.all_reduce(seconds)
        if rank == 0:
            spent = dict(zip(order, seconds.T.tolist(), strict=True))
            print(f"{kind}, {world} processes:")
            for name, wanted in WANTED.items():
                print(
                    f"  {name}: instrumented step / bare step {ratio(spent[name], spent['bare'], wanted)}", flush=True
                )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--world", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spawn(measure, (options.world, options.rounds, folder), nprocs=options.world)


if __name__ == "__main__":
    main()
