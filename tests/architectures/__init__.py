"""Architectures of the field in small, for the null-space oracle: `python -m architectures` prints the table."""

from architectures import attention, huggingface  # noqa: F401 (they register)
from architectures.base import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture"]
