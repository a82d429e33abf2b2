"""Precision one and recall one on the architectures of the field; `python -m architectures` (in tests/) is the table.

The fast tests compare detection with the oracle's dimensions as they are stored; a claim that fails verification is in
`rejected`, so that equal dimensions mean equal spaces. The slow ones ask the oracle anew, and compare the spaces.
"""

import json

import pytest
from architectures import ARCHITECTURES, Architecture
from architectures.__main__ import STORE
from architectures.huggingface import AVAILABLE

from detect.oracle import DOMAINS, find, null_spaces

DIMENSIONS: dict[str, dict[str, int]] = json.loads(STORE.read_text())
# What detection does not find, by domain, and why. Held to exactly: a miss that is gone leaves this list.
MISSED: dict[str, dict[str, int]] = {}

OURS = [a for a in ARCHITECTURES.values() if a.group != "huggingface"]
FAST = "hf_bert hf_gpt2 hf_llama hf_qwen3 hf_t5 hf_vit hf_swin hf_resnet_bottleneck hf_mixtral hf_mamba".split()
HUGGING_FACE = [
    pytest.param(a, marks=() if a.name in FAST else pytest.mark.slow, id=a.name)
    for a in ARCHITECTURES.values()
    if a.group == "huggingface"
]
needs_transformers = pytest.mark.skipif(not AVAILABLE, reason="transformers is not installed")


def check_dimensions(a: Architecture) -> None:
    found = find(a)
    assert not found.rejected
    missed = MISSED.get(a.name, {})
    assert found.dimension == {d: n - missed.get(d, 0) for d, n in DIMENSIONS[a.name].items()}


@pytest.mark.parametrize("a", OURS, ids=str)
def test_dimensions(a: Architecture) -> None:
    check_dimensions(a)


@needs_transformers
@pytest.mark.parametrize("a", HUGGING_FACE)
def test_dimensions_of_hugging_face_models(a: Architecture) -> None:
    check_dimensions(a)


def check_spaces(a: Architecture) -> None:
    found = find(a, verify=False)
    truth = null_spaces(a)
    assert {d: null.dimension for d, null in truth.items()} == DIMENSIONS[a.name]
    for domain, null in truth.items():
        score = null.score((s for s in found if s.kind in DOMAINS[domain]), a.model())
        print(f"{a.name:<40} {domain:<12} precision {score.precision:.2f}  recall {score.shared}/{score.true}")
        assert score.shared == score.claimed, "a false claim"
        assert score.true - score.shared == MISSED.get(a.name, {}).get(domain, 0)


@pytest.mark.slow
@pytest.mark.parametrize("a", OURS, ids=str)
def test_spaces(a: Architecture) -> None:
    check_spaces(a)


@pytest.mark.slow
@needs_transformers
@pytest.mark.parametrize("a", [a for a in ARCHITECTURES.values() if a.group == "huggingface"], ids=str)
def test_spaces_of_hugging_face_models(a: Architecture) -> None:
    check_spaces(a)


def test_every_architecture_has_its_dimensions_stored() -> None:
    assert set(DIMENSIONS) == set(ARCHITECTURES)
