"""Operators that no claim passes, for they do not compute with content: they ask for the shape of a tensor, make one
like it, or hand its content to Python."""

from __future__ import annotations

from neuromech.detect.operator import define

define("sym_size sym_stride sym_numel sym_storage_offset is_same_size", None, is_metadata=True)
define("zeros_like ones_like full_like rand_like randn_like randint_like", None, no_content=True)
define("new_zeros new_ones new_full", None, no_content=True)
define("empty_like new_empty new_empty_strided", None, no_content=True, unfilled=True)
define("empty empty_strided", None, unfilled=True)
define("equal allclose", None, escapes=True)
define("item _local_scalar_dense is_nonzero", None, escapes=True, as_number=True)
