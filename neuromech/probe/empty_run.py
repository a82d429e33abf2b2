"""Why a probe has nothing to say, in words."""

NO_STATE = (
    "the run directory holds earlier sessions, and no state of them was loaded: steps count from 0 again, and what was "
    "recorded before stays on disk, as a branch that was given up. To go on where it stopped, save probe.state_dict() "
    "and pass it to probe.load_state_dict() before the first step"
)
NO_FORWARD = (
    "no forward of the instrumented model has been seen with gradients enabled: call the model itself, not its parts "
    "(a compiled or wrapped model, if that is what you call, is what to instrument), or pass example= to instrument(). "
    "Where models of this class were compiled before, call torch.compiler.reset() ahead of instrument()"
)
EMPTY = "so far all batches were empty, which shows nothing of a model"
NO_BACKWARD = "no gradient has reached the model's output: no backward has been seen"
NOT_FINITE = "every gradient that has reached the model's output was NaN or infinite"
NO_STEP = "no optimizer has stepped this model's parameters"
