"""The table of operators (`operator.OPERATORS`): importing this fills it.

Each file is named after a mathematical property and defines the few rules that share it; an operator is one line that
says which rule it obeys.
"""

from neuromech.detect.operators import attention as attention
from neuromech.detect.operators import content as content
from neuromech.detect.operators import decomposed as decomposed
from neuromech.detect.operators import fourier as fourier
from neuromech.detect.operators import index as index
from neuromech.detect.operators import linear as linear
from neuromech.detect.operators import lookup as lookup
from neuromech.detect.operators import loss as loss
from neuromech.detect.operators import movement as movement
from neuromech.detect.operators import normalize as normalize
from neuromech.detect.operators import pointwise as pointwise
from neuromech.detect.operators import pool as pool
from neuromech.detect.operators import recurrent as recurrent
from neuromech.detect.operators import reduce as reduce
from neuromech.detect.operators import writes as writes
