"""Symmetries beyond the diagonal: where an index is only ever used linearly, any invertible matrix may mix it.

walk.py     one pass over a recorded graph: which index of a tensor is which, and what every operator does to it
movement.py, products.py, lengths.py, writes.py     the rules of the operators
inner.py, rotary.py     what is written by hand in several calls
groups.py   from these statements to GL(n) and O(n) families
"""

from neuromech.detect.matrix.groups import beyond_the_diagonal as beyond_the_diagonal
from neuromech.detect.matrix.groups import matrix_families as matrix_families
