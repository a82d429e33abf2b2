"""Moving a model along its symmetries: the same function, other numbers."""

from neuromech.gauge.balanced import Balanced as Balanced
from neuromech.gauge.balanced import balance as balance
from neuromech.gauge.inplace import transform as transform
