"""The states of all random generators that user code may draw from: Python's, numpy's if it is loaded, and torch's."""

from __future__ import annotations

import ctypes
import pickle
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

STRUCT = 625 * 4  # bytes of the state of numpy's MT19937: 624 words and a position


class GeneratorStates(NamedTuple):
    python: Any
    numpy: Any
    torch: Tensor
    cuda: dict[torch.device, Tensor]


def states(devices: Iterable[torch.device], only_torch: bool = False) -> GeneratorStates:
    """Where the generators stand; of CUDA those of `devices`."""
    cuda = {device: torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}
    if only_torch:
        return GeneratorStates(None, None, torch.get_rng_state(), cuda)
    return GeneratorStates(random.getstate(), _numpy_state(), torch.get_rng_state(), cuda)


def same(a: GeneratorStates, b: GeneratorStates) -> bool:
    """Whether the same numbers come from both."""
    tensors = [(a.torch, b.torch), *((x, b.cuda[device]) for device, x in a.cuda.items())]
    numpy = a.numpy is b.numpy or pickle.dumps(a.numpy) == pickle.dumps(b.numpy)
    return a.python == b.python and numpy and all(torch.equal(x, y) for x, y in tensors)


def restore(states: GeneratorStates) -> None:
    """Put the generators where they stood."""
    if states.python is not None:
        random.setstate(states.python)
    if states.numpy is not None and states.numpy is not _numpy_state():
        sys.modules["numpy"].random.set_state(states.numpy)
    torch.set_rng_state(states.torch)
    for device, state in states.cuda.items():
        torch.cuda.set_rng_state(state, device)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Random numbers drawn inside do not count: all generators, on all devices, go on as if nothing happened."""
    cuda = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
    before = states(torch.device("cuda", i) for i in range(cuda))
    try:
        yield
    finally:
        restore(before)


_last: tuple[bytes, Any] = (b"", None)  # the words of numpy's generator, and the state that it told with them


def _numpy_state() -> Any:
    """numpy takes longer to tell its state than a small layer takes to train: it is asked only if its words changed.

    Without a second normal number in store, `has_gauss`, nothing can be drawn without changing them.
    """
    global _last
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    generator = numpy.random.get_bit_generator()
    if type(generator) is not numpy.random.MT19937:
        return numpy.random.get_state(legacy=False)
    words = ctypes.string_at(generator.ctypes.state_address, STRUCT)
    if words != _last[0] or _last[1]["has_gauss"]:
        _last = words, numpy.random.get_state(legacy=False)
    return _last[1]
