"""The causes that are told apart: what each is called, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """`rival`: what else leaves this trace. `lasting`: it goes on from step to step, so it is told once, whichever
    parameters show it."""

    title: str
    advice: str
    rival: str
    lasting: bool = False


CAUSES: dict[str, Cause] = {
    "wrong backward": Cause(
        "a gradient is not the derivative of the forward",
        "check custom autograd functions, backward hooks and checkpointed parts between the parameters that are named "
        "(torch.autograd.gradcheck tells which)",
        "a gradient that is changed on its way on purpose (reversal, straight-through estimators, hooks, compression "
        "between processes), or a path through the model that was not recorded",
        lasting=True,
    ),
    "evaluation mode": Cause(
        "training goes on in another mode than at first",
        "call model.train() after every evaluation; freeze batch norm before the run if it is meant to be frozen",
        "modules that are to change their mode by plan",
        lasting=True,
    ),
    "penalty": Cause(
        "the loss has an L2 term of its own",
        "take the penalty out of the loss, or give the optimizer weight_decay in its place, which the laws follow",
        "any term that grows with all weights alike, as a decay that is written into gradients",
        lasting=True,
    ),
    "other loss": Cause(
        "the loss sees what it did not see at first",
        "look for a term that was added to the loss, or for another loss than in the first step",
        "a target whose entries no longer sum to one, or a backward that loses a part of the last layer",
        lasting=True,
    ),
    "stale gradient": Cause(
        "the gradient was taken at other weights than those that it steps",
        "compute forward, backward and step on the same weights: no step in between, no gradient kept from before",
        "gradients that are taken elsewhere on purpose (SAM, extragradient), or a wrong backward",
        lasting=True,
    ),
    "not cleared": Cause(
        "gradients were not cleared after the last step",
        "call optimizer.zero_grad() once a step, before the backward",
        "gradients that are meant to pile up over steps",
        lasting=True,
    ),
    "repeated step": Cause(
        "a step was taken without a new gradient",
        "call backward() before every step, and step() once",
        "gradients that are written to .grad by hand, and are the same twice",
        lasting=True,
    ),
    "second optimizer": Cause(
        "a second hand steps the same weights",
        "give every parameter to one optimizer, and take out updates by hand",
        "code that moves weights along their gradient by hand",
        lasting=True,
    ),
    "edited weights": Cause(
        "weights were changed outside of the optimizer's step",
        "look for code that writes to the parameters between steps: clamping, averaging, load_state_dict, hooks",
        "a planned projection, or a memory that loses many bits at once",
        lasting=True,
    ),
    "edited state": Cause(
        "the optimizer's state was changed outside of its step",
        "look for code that writes to optimizer.state between steps",
        "a planned reset, or a memory that loses many bits at once",
        lasting=True,
    ),
    "bit flip in weight": Cause(
        "one bit of a weight has flipped in memory",
        "restore the last checkpoint; test the memory of the machine",
        "code that writes one such element by way of .data, which PyTorch does not count",
    ),
    "bit flip in gradient": Cause(
        "one bit of a gradient has flipped in memory",
        "skip the step or restore the last checkpoint; test the memory of the machine",
        "code that writes one such element by way of .data, which PyTorch does not count",
    ),
    "bit flip in momentum": Cause(
        "one bit of the optimizer's state has flipped in memory",
        "restore the last checkpoint; test the memory of the machine",
        "code that writes one such element by way of .data, which PyTorch does not count",
    ),
    "modified gradient": Cause(
        "gradients were changed between the backward and the step",
        "clip last: look for what writes to .grad after the clipping (noise, a second unscale, a late all-reduce)",
        "noise, masks or projections that are meant, and set in later than the first step",
        lasting=True,
    ),
    "not finite": Cause(
        "gradients are not finite",
        "look at the batch and the loss of this step; lower the learning rate, or clip. A GradScaler that searches "
        "for its scale does this at first only",
        "a loss scale that is far too large",
        lasting=True,
    ),
    "frozen": Cause(
        "parameters that were trained have been frozen",
        "check what set requires_grad to False",
        "freezing by plan",
        lasting=True,
    ),
    "detached": Cause(
        "a branch is cut off: its parameters receive no gradient any more",
        "look for detach(), no_grad(), .data or .item() on the way from the parameters to the loss",
        "a branch that the model leaves out by plan, or by a chance that has changed",
        lasting=True,
    ),
    "dead gradient": Cause(
        "gradients are exactly zero where they were not",
        "lower the learning rate if units have died (a ReLU that no input reaches); look at the outputs of the layers "
        "that are named, and for a factor of zero",
        "a term of the loss whose weight went to zero, a mask, or numbers too small for their format",
        lasting=True,
    ),
    "not held": Cause(
        "trained parameters are in no optimizer",
        "give the optimizer all parameters that are to be trained, once the model is complete, or freeze the others",
        "an optimizer that is made later",
        lasting=True,
    ),
    "replaced": Cause(
        "a parameter was replaced by another tensor, and the optimizer steps the old one",
        "make the optimizer anew, or copy into the parameter instead of assigning it",
        "a module that was exchanged by plan",
        lasting=True,
    ),
    "settings": Cause(
        "a param group has unexpected settings",
        "print optimizer.param_groups at this step; declare what is scheduled: monitor(scheduled=...)",
        "a schedule by hand",
        lasting=True,
    ),
    "learning rate": Cause(
        "the learning rate is not applied as it is set",
        "check that the schedule writes to the optimizer that steps, and that its step() reads its param groups",
        "an optimizer of its own kind that scales its rate by itself",
        lasting=True,
    ),
    "wrong step": Cause(
        "the optimizer's step does something else than its settings say",
        "compare its code with torch.optim of the same name; check hooks on its step",
        "a hook behind the step that writes to weights or state, or a kernel that rounds more than it may",
        lasting=True,
    ),
    "weight decay": Cause(
        "weight decay is not applied as it is set",
        "check the weight_decay of every param group, and that nothing decays the weights a second time",
        "a hook behind the step that shrinks weights",
        lasting=True,
    ),
    "momentum": Cause(
        "momentum is not applied as it is set",
        "check the momentum (betas) of every param group and the code of the step",
        "a hook on the step that writes to its state",
        lasting=True,
    ),
    "momentum lost": Cause(
        "the optimizer has lost its momentum (its averages)",
        "load the optimizer's state_dict with the model's; do not make the optimizer anew in mid-run",
        "an optimizer that is made anew, or reset, by plan",
    ),
    "step count lost": Cause(
        "the optimizer counts its steps from another number",
        "load the optimizer's whole state_dict: bias corrections depend on the number of steps",
        "a step count that is set by plan, as at a warm restart",
    ),
    "schedule lost": Cause(
        "the learning rate starts over",
        "load the scheduler's state_dict with the optimizer's",
        "a schedule that starts over by plan at this very step",
    ),
    "wrong checkpoint": Cause(
        "the restored weights are not those that were saved",
        "load model, optimizer and probe from one checkpoint",
        "weights that are changed between the restoring and the first step, as a head that is made anew",
    ),
    "not reduced": Cause(
        "a rank steps with gradients that were not reduced",
        "call the wrapped model (DistributedDataParallel), keep no_sync() to the micro-batches before the last, "
        "reduce every gradient before clipping",
        "ranks that are to step by themselves for a while (local SGD)",
        lasting=True,
    ),
    "replicas differ": Cause(
        "the weights of the ranks have drifted apart",
        "broadcast them from one rank; look for the first rank and step that differ",
        "ranks that are to differ for a while (local SGD)",
        lasting=True,
    ),
    "zeroed gradient": Cause(
        "gradients are zeroed between the backward and the step",
        "call zero_grad() after the step or before the forward, not in between",
        "gradients that are masked by plan, or a batch that is left out this way",
        lasting=True,
    ),
    "dropped gradient": Cause(
        "a part of the accumulated gradient is thrown away",
        "call zero_grad() once a step, not once a micro-batch",
        "two losses of which only the second is to be stepped",
        lasting=True,
    ),
    "average": Cause(
        "an average of the weights takes them in otherwise than declared",
        "compare its decay with what probe.averaging() is told (1 - decay); keep averages in float32, where a small "
        "weight is not lost to rounding",
        "a decay that warms up",
        lasting=True,
    ),
    "doubled gradient": Cause(
        "one loss is sent back twice",
        "call backward() once for every loss; sum the losses that share a graph first",
        "a loss that is to count twice",
        lasting=True,
    ),
    "nothing moved": Cause(
        "the optimizer's step moves nothing",
        "check that its step() does what it says on this device and format, and is not skipped",
        "updates below the last place of every weight",
        lasting=True,
    ),
    "lost updates": Cause(
        "updates are lost to rounding",
        "keep a float32 copy of the weights to step on, or round stochastically; or raise the learning rate",
        "a rate that is meant to be that small",
        lasting=True,
    ),
    "unknown": Cause(
        "an exact law is broken, and nothing that is known explains it",
        "look at the families that are named, and at what touches their parameters in this step",
        "anything else that touches them",
    ),
}
