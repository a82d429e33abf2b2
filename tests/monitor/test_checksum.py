"""Checksums change if and only if memory does, and tell a flipped bit from an edit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuromech.monitor.checksum import checksums, flipped_bit

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32]
READ_AS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@given(st.sampled_from(DTYPES), st.integers(0, 10**6), st.data())
def test_any_flipped_bit_is_seen_and_named(dtype: torch.dtype, seed: int, data: st.DataObject) -> None:
    g = torch.Generator().manual_seed(seed)
    x = (torch.randn(7, 5, generator=g) * 100).to(dtype)
    (before,) = checksums([x]).tolist()
    size = x.element_size()
    bit, where = data.draw(st.integers(0, 8 * size - 1)), data.draw(st.integers(0, x.numel() - 1))
    words = x.view(READ_AS[size]).view(-1)
    words[where] ^= torch.tensor(1, dtype=words.dtype) << bit
    (after,) = checksums([x]).tolist()
    assert after != before
    assert flipped_bit(before, after, size) == bit


def test_order_of_memory_and_place_do_not_matter() -> None:
    x = torch.randn(4, 3, 5, 5)
    y = x.contiguous(memory_format=torch.channels_last)
    a, b = checksums([x, y]).tolist()
    assert a == b


def test_an_edit_is_no_flip() -> None:
    x = torch.randn(100)
    (before,) = checksums([x]).tolist()
    for edit in (lambda t: t.mul_(1.001), lambda t: t.clamp_(-1, 1), lambda t: t.add_(1e-3)):
        y = x.clone()
        edit(y)
        (after,) = checksums([y]).tolist()
        assert flipped_bit(before, after, 4) is None


def test_every_layout() -> None:
    sparse = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).to_sparse()
    mixed = [sparse, torch.ones(2, dtype=torch.complex64), torch.tensor([True, False]), torch.tensor(3.0)]
    assert checksums(mixed).shape == (4,)
    assert checksums([]).shape == (0,)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_no_change_is_no_flip(size: int) -> None:
    assert flipped_bit(5, 5, size) is None


def test_many_small_ones_at_once_are_what_each_is_alone() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(n, k) for n in range(1, 20) for k in (1, 5)] + [torch.randn(5000), torch.randn(3).double()]
    tensors += [-torch.rand(2**11, dtype=torch.float32), torch.randn(3, 4).T]
    alone = torch.cat([checksums([t]) for t in tensors])
    assert torch.equal(checksums(tensors), alone)
