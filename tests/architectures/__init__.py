"""Architectures of the field in small, for the null-space oracle: `python -m architectures` prints the table."""

from architectures import (  # noqa: F401 (they register)
    attention,
    convolutional,
    huggingface,
    identities,
    operators,
    perceptrons,
    sequences,
    torch_modules,
)
from architectures.base import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture"]
