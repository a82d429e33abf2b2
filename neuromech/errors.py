"""Everything neuromech raises or warns about. Each message says what was found, what was expected and what to do."""


class NeuromechError(Exception):
    """Base class of all errors that neuromech raises on purpose."""


class CaptureError(NeuromechError):
    """The forward pass could not be recorded faithfully."""


class DetectionError(NeuromechError):
    """The request for symmetries makes no sense for this model, example or loss."""


class SymmetryError(NeuromechError):
    """A symmetry is ill-formed, or does not fit the parameters that it is applied to."""


class RecordError(NeuromechError):
    """A run directory or a saved state cannot be written, read or resumed."""


class InstrumentError(NeuromechError):
    """`instrument` was asked for something that cannot work."""


class FaultError(NeuromechError):
    """The monitor has found something wrong with the run, and was asked to stop it; `fault` says what."""

    def __init__(self, message: str, fault: object = None) -> None:
        super().__init__(message)
        self.fault = fault


class NeuromechWarning(UserWarning):
    """Something in the run limits what can be said about it; training itself is untouched."""


class FaultWarning(NeuromechWarning):
    """The monitor has found something wrong with the run."""
