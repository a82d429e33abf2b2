"""What `neuromech explain` says of the codes of warnings and events, beside those of the monitor's causes."""

from __future__ import annotations

# By what it is about, as given to `neuromech.errors.warn` and as the kind of an event: a title, and what to do.
SAID: dict[str, tuple[str, str]] = {
    "none found": (
        "no symmetry was found in the model",
        "Laws need symmetries. print(probe.symmetries) lists what blocks them: operations that are not understood, and "
        "activations or losses that have none, such as tanh and the squared error. The loss is recorded all the same.",
    ),
    "torque": (
        "the gradients that were stepped do not leave the loss where its symmetries leave it",
        "They were changed after the backward (clipped one by one or by value, noise, projections), taken at other "
        "weights (SAM), or the loss does not keep the symmetry. From then on the torque of these families is measured: "
        "`exact` follows it, and is an identity there; `flow` does not, and `ideal` is without it.",
    ),
    "stops alone": (
        "on_fault='raise' could not agree with the other processes of the run",
        "Call monitor('raise') on every rank, or on none: else those that have found nothing may wait for the others.",
    ),
    "changed": (
        "weights or momentum were changed by something else than an optimizer step",
        "load_state_dict, clipping of weights, averaging, re-initialisation: no law covers them, so predictions start "
        "over from the values found there. If you meant it, nothing is to be done; if not, look for code that writes "
        "to parameters between steps.",
    ),
    "measured": (
        "nothing is known of the steps of an optimizer",
        "Its law follows the displacement that is measured, and balances whatever the step does: it checks nothing. "
        "neuromech.register_optimizer teaches the laws an optimizer.",
    ),
    "no forward": (
        "no forward of the instrumented model, or no gradient that is finite, was seen",
        "Call the model that you instrumented, not its parts, with gradients enabled; or pass example= to "
        "instrument(). If the message says that all gradients were NaN or infinite, look for NaN in the inputs, the "
        "weights and the loss of the first steps.",
    ),
    "no state": (
        "a run was resumed without the state of its probe",
        "Steps count from 0 again. Save probe.state_dict() with your checkpoint, and load it before the first step.",
    ),
    "sink": (
        "a logger or function given as to= has failed, and gets no more numbers",
        "The message names the error. The records and the other sinks go on; probe.scalars() still has the numbers.",
    ),
    "failed": (
        "measuring failed and has stopped; training goes on",
        "What was recorded is kept. The message names the error and where it happened: please report it. "
        "instrument(..., strict=True) raises the error where it happens.",
    ),
    "replaced": (
        "a parameter was replaced by another tensor",
        "What is observed from then on is the old tensor. Instrument the model after parameters are replaced.",
    ),
    "added": (
        "parameters came into the model after it was instrumented",
        "They are not measured. Instrument the model once it is complete.",
    ),
    "settings": (
        "a setting of an optimizer changed in mid-run",
        "The laws take every step with the settings that it has. Listed so that you can see when.",
    ),
    "moving": (
        "parameters began or stopped to move",
        "They had no gradient, or their step was skipped. Meant when layers are frozen or unfrozen.",
    ),
    "non-finite": (
        "parameters are not finite",
        "The run has diverged. Lower the learning rate or warm it up; look at the first parameter that is named.",
    ),
    "nothing measured": (
        "the run ended without anything having been measured",
        "The message says what did not happen: a forward with gradients, a backward that reached the output, or a step "
        "of an optimizer that holds the model's parameters.",
    ),
    "practice": (
        "the monitor noticed something that is often meant, such as an L2 term in the loss",
        "It is listed beside what it may explain, and is not a fault. probe.monitor(allow=...) declares what is meant; "
        "neuromech.monitor.PRACTICES lists the words.",
    ),
    "fault": (
        "the monitor has found something wrong with the run",
        "Every fault has the code of its likeliest cause: `neuromech explain` lists them.",
    ),
    "withdrawn": (
        "claimed symmetries failed when they were tried out, and are not used",
        "Nothing is said about them. found.rejected lists them with what was measured. If an L2 penalty is in the "
        "loss, or a backward of your own is not the derivative of its forward, that is the reason; else please "
        "report the model.",
    ),
    "budget": (
        "the time to look for symmetries was up",
        "Permuted channels and long chains of concatenations cut axes into so many pieces that a search may take "
        "hours. Beyond the budget axes are taken as wholes, and what is not settled is not claimed; what is claimed "
        "holds. instrument(..., budget=600) and find_symmetries(..., budget=None) take longer.",
    ),
    "trainable": (
        "other parameters can be trained than before",
        "Layers were frozen or unfrozen. The symmetries of the model as it trains now were looked for in its next "
        "forward and backward; what is new is measured from there on. What was measured before goes on.",
    ),
    "rule untested": (
        "the rule of an optimizer could not be tested against it",
        "It is registered as it is. Pass register_optimizer(..., make=lambda params: ...), which makes one, so that "
        "the rule can be held against real steps.",
    ),
    "other rule": (
        "an optimizer does not do what the known optimizer of its name does",
        "Its steps are measured, and check nothing. neuromech.register_optimizer teaches the laws what it does.",
    ),
    "deprecated": (
        "a function that will go has been called",
        "The message names the one to use instead. Results are what they were.",
    ),
    "underflow": (
        "weights that were moved along a symmetry became too small for their dtype",
        "Some entries are zero now, so the function has changed a little. Move less far, or move in float32.",
    ),
    "kinks": (
        "a flow has kinks, so that it is integrated by steps as long as the optimizer's own",
        "Updates that take the sign of a gradient jump where it changes: the solution there is no closer to the true "
        "flow than the steps are, and no order in the learning rate is claimed. A larger eps makes the flow smooth.",
    ),
    "edge of stability": (
        "the largest Hessian eigenvalue is past the edge of stability",
        "Steps oscillate there, and follow no gradient flow. Lower the learning rate by the factor that is named, or "
        "follow the oscillation: neuromech.eom.edge_flow.",
    ),
    "gradients differ": (
        "the gradients that wait in .grad are a little different from those of the closure",
        "Those of the closure are taken. Dropout masks that are drawn anew, or a reduced precision, explain a small "
        "difference; call zero_grad() and no backward before step(closure) to have only one of them.",
    ),
    "gradient of another loss": (
        "the gradient that the closure leaves is not the derivative of the loss that it returns",
        "It clips or scales gradients, or returns another loss. EoMOptimizer follows the flow of the gradients that it "
        "leaves: return the loss itself, and lower lr instead of clipping.",
    ),
    "counter terms": (
        "the terms that put steps on the flow are larger than the gradient itself",
        "The series does not converge at this learning rate. Lower lr, momentum or order.",
    ),
    "kinks in the network": (
        "order 2 or more is asked of EoMOptimizer for a network with kinks: ReLU, max pooling, absolute values",
        "Steps that cross a kink are off by lr^2 whatever terms they have, so that order 1 is what is reached. Take "
        "order 1, or smooth activations and average pooling.",
    ),
    "records unwritten": (
        "the records of a run cannot be written",
        "Training goes on, rows are kept in memory, and writing is tried again at every flush: make room on the disk, "
        "or bring the directory back. A symbolic link in a run directory is not followed: remove it.",
    ),
    "records vanished": (
        "the directory of a run had been deleted, and was made anew",
        "What had been written to it is gone; what was measured since then is there.",
    ),
    "records lost": (
        "rows could not be written before the process ended",
        "The disk was full, or the directory gone, until the end. The report says nothing of those steps.",
    ),
}
