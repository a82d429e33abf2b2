from .balancing import Balanced as Balanced
from .balancing import balance as balance
from .inplace import transform as transform
