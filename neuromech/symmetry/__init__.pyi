from . import mixing as mixing
from .collection import SymmetrySet as SymmetrySet
from .symmetry import KINDS as KINDS
from .symmetry import Kind as Kind
from .symmetry import Symmetry as Symmetry
from .term import Part as Part
from .term import Term as Term
