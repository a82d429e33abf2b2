"""One run, durable: what was measured as tables of columns, and what it was measured on as `meta`.

A run directory holds `run.json` (the meta of every session) and one CSV file a table. Resuming a run starts a new
session; every row carries its `session`, and no row that was written is ever changed. The tables that neuromech writes:

    steps     step, optimizer (index), lr, time (sum of lr)
    charges   step, symmetry (index), member (-1: the whole family), observed, exact, ideal, continuous, flow, scale,
              and the residuals of the four laws; nan where nothing is predicted
    terms     step, symmetry, member, and what each cause has moved the charge by since the start: discretization,
              weight_decay, momentum, preconditioner, leak, outside, rounding (what it can explain of the rest) and
              unexplained (what it cannot), which sum to the observed change; turn: the sum of sin^2 of the angles by
              which steps turned the weights (of a family: the mean over members)
    sides     step, symmetry, and the squares of weights and gradients on both sides of a rescaling, at 8 steps of
              every doubling: weights_up, weights_down, gradient_up, gradient_down
    matrices  step, symmetry, and of the charges of a matrix family as a whole, at 8 steps of every doubling: size (what
              bounds them), trace, norm (Frobenius), largest (eigenvalue), estimated (1: the norm is, by random signs)
    metrics   step, name, value: the loss that backward was called on, norms of weights and gradient now and then, and
              what `probe.log` was given
    progress  step, seconds since the start of the session, of which measuring
    events    step, kind, message

A session says how it began (`process`: host, pid, directory, command, commit) and how it ended (`ended`: when, how,
what); without an end, the process was killed or still runs.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
