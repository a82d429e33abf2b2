"""Models that fit on no machine, by their shapes alone: Llama on the meta device, against the closed form."""

import json
import subprocess
import sys

import pytest
import torch

from neuromech import find_symmetries

# layers, width, hidden units, query heads; all with 8 heads for keys and values, and heads of 128
SHAPES = {
    "two layers of 8B": (2, 4096, 14336, 32),
    "8B": (32, 4096, 14336, 32),
    "70B": (80, 8192, 28672, 64),
    "405B": (126, 16384, 53248, 128),
}
LINEARS = 40  # times 20,000 calls of F.linear in the same process: what 126 layers may take; 31 were measured
MEGABYTES = 600

SCRIPT = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import neuromech
layers, width, hidden, heads = json.loads(sys.argv[1])
config = LlamaConfig(
    hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
    num_key_value_heads=8, vocab_size=128256, rms_norm_eps=1e-5, tie_word_embeddings=False, use_cache=False,
)
with torch.device("meta"):
    model = LlamaForCausalLM(config)
    ids = torch.zeros(1, 16, dtype=torch.long)
weight, row = torch.empty(1024, 1024, device="meta"), torch.empty(1, 1024, device="meta")
with torch.inference_mode():
    start = time.process_time()
    for _ in range(20_000):
        torch.nn.functional.linear(row, weight)
    unit = time.process_time() - start
start = time.process_time()
found = neuromech.find_symmetries(model, {"input_ids": ids, "labels": ids})
spent = (time.process_time() - start) / unit
# Not ru_maxrss, which a process inherits from the one that started it.
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([found.dimension, spent, peak, [s.name for s in found.symmetries.of(kind="rescale")[:5]]]))
"""


def detected(shape: tuple[int, ...]) -> tuple[dict[str, int], float, float, list[str]]:
    """In a process of its own, so that its memory can be told."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(shape)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def closed_form(layers: int, width: int, hidden: int, heads: int) -> int:
    """Value rows, rotary pairs, hidden units and gains of two norms a layer; the gains of the last norm; the stream."""
    kv = 8 * width // heads
    return layers * (kv + kv // 2 + hidden + 2 * width) + width + 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", SHAPES)
def test_llama_has_the_dimension_of_the_closed_form(name: str) -> None:
    shape = SHAPES[name]
    dimension, spent, peak, names = detected(shape)
    print(f"{name}: {dimension}, {spent:.1f} times 20,000 calls of F.linear, {peak:.0f} MB")
    assert dimension["scaling"] == closed_form(*shape)
    assert dimension["translation"] == shape[1]
    assert spent <= LINEARS * max(shape[0], 32) / 126
    assert peak <= MEGABYTES
    assert "model.layers.0.input_layernorm.weight[i] / model.layers.0.self_attn.q_proj.weight[:, i], " in names[0]


def test_the_closed_form_is_that_of_the_study() -> None:
    assert closed_form(*SHAPES["405B"]) == 11_047_937
    assert closed_form(*SHAPES["8B"]) == 774_145


def test_two_layers_on_the_meta_device() -> None:
    """The same in this process, where it takes a fraction of a second."""
    transformers = pytest.importorskip("transformers")
    layers, width, hidden, heads = SHAPES["two layers of 8B"]
    config = transformers.LlamaConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
        ids = torch.zeros(1, 16, dtype=torch.long)
    found = find_symmetries(model, {"input_ids": ids, "labels": ids})
    assert found.dimension["scaling"] == closed_form(layers, width, hidden, heads)
    assert found.dimension["translation"] == width
    assert {p.size for p in found.permutations} == {width, hidden, 8, 4, 128}
