"""The conductor: watches a training loop, measures and predicts at every step, and keeps the records."""

from neuromech.probe.probe import Probe, instrument

__all__ = ["Probe", "instrument"]
