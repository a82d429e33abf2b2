"""What a verdict on a law rests on: from what never reads the weights to what was never followed.

predicted   SGD: the law never reads how the symmetry moved the weights; the symmetry protects what is not read
checked     the update is rebuilt from the optimizer's own state: the law says whether the step did what that says
measured    the displacement itself is read, or the torque of the gradients: an identity, which balances in any run
found       the symmetry was found, and nothing followed it
unknown     the records tell of no optimizer
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

Evidence = Literal["predicted", "checked", "measured", "unknown", "found"]
MEANING: dict[Evidence, str] = {
    "predicted": "computed ahead of each step, without reading how it moved the weights",
    "checked": "rebuilt from the optimizer's own state, which says whether each step did what the optimizer says",
    "measured": "an identity, which reads back what was measured and balances whatever happens",
    "unknown": "of an optimizer that the records do not name, so whether it could have failed is not known",
    "found": "found in the model, not followed in training",
}
OF_MANY = MEANING | {"measured": "identities, which read back what was measured and balance whatever happens"}
_OF_LAW: dict[str, Evidence] = {"exact": "predicted", "rebuilt": "checked", "measured": "measured"}
_STRENGTH: tuple[Evidence, ...] = ("measured", "checked", "predicted")


def evidence_of(optimizers: Sequence[Mapping[str, Any]], parameters: Collection[str], leaks: bool) -> Evidence:
    """Of the exact law of a family that moves `parameters`: the weakest among the optimizers that step these.

    `leaks`: something breaks the symmetry, or the gradients of a step did, and the law reads its torque.
    """
    if not optimizers:
        return "unknown"
    laws = [str(o.get("law")) for o in optimizers if steps_any(o, parameters)]
    found = [_OF_LAW.get(law, "measured") for law in laws] or ["measured"]
    return "measured" if leaks else min(found, key=_STRENGTH.index)


def steps_any(optimizer: Mapping[str, Any], parameters: Collection[str]) -> bool:
    """Whether an optimizer holds one of the parameters; records that do not say count as yes."""
    groups: Sequence[Mapping[str, Any]] = optimizer.get("groups") or ({},)
    return any(holds_any(group, parameters) for group in groups)


def holds_any(group: Mapping[str, Any], parameters: Collection[str]) -> bool:
    names = group.get("names")
    return not names or not parameters or not set(parameters).isdisjoint(names)
