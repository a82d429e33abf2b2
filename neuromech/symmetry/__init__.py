"""The waist of neuromech. Detection makes symmetries, dynamics reads them, neither knows the other."""

from neuromech.symmetry.collection import SymmetrySet as SymmetrySet
from neuromech.symmetry.symmetry import KINDS as KINDS
from neuromech.symmetry.symmetry import Kind as Kind
from neuromech.symmetry.symmetry import Symmetry as Symmetry
from neuromech.symmetry.term import Part as Part
from neuromech.symmetry.term import Term as Term
