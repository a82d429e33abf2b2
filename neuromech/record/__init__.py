"""One run, durable: what was measured as tables of columns, and what it was measured on as `meta`.

A run directory holds `run.json` (the meta of every session) and one CSV file a table. Resuming a run starts a new
session; every row carries its `session`, and no row that was written is ever changed. The tables that neuromech writes:

    steps     step, optimizer (index), lr, time (sum of lr)
    charges   step, symmetry (index), member (-1: the whole family), observed, exact, ideal, continuous, flow, scale,
              and the residuals of the four laws; nan where nothing is predicted
    events    step, kind, message
"""

from neuromech.record.record import Record
from neuromech.record.run import Run, read

__all__ = ["Record", "Run", "read"]
