"""What was written to, or changed by itself: the causes that edits of weights, gradients and state speak for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neuromech.monitor.evidence import Edit, Evidence, Names
from neuromech.monitor.replay import Difference
from neuromech.monitor.suspect import CERTAIN, LIKELY, LOW_BITS, POSSIBLE, Suspect
from neuromech.record import some


def names_of(edits: Sequence[Edit | Difference]) -> Names:
    return tuple(dict.fromkeys(x.name for x in edits))


def bit_flips(e: Evidence) -> Iterator[Suspect]:
    kinds = {"weight": "bit flip in weight", "gradient": "bit flip in gradient"}
    for x in e.edits:
        if x.bit is not None:
            key = kinds.get(x.what, "bit flip in momentum")
            alone = len(e.edits) == 1 and x.by_code is not True
            if x.by_code and x.bit <= LOW_BITS:
                continue  # that is what rounding does
            said = "no code wrote to it" if x.by_code is False else "its checksum changed by a power of two"
            text = f"bit {x.bit} of one element of {_noun(x.what)} {x.name} changed, and nothing else: {said}"
            strength = POSSIBLE if x.by_code else CERTAIN if alone else LIKELY
            yield Suspect(key, strength, (x.name,), text)


def _noun(what: str) -> str:
    return {"weight": "the weight", "gradient": "the gradient of"}.get(what, f"{what} of")


def edited_weights(e: Evidence) -> Iterator[Suspect]:
    edits = [x for x in e.edits if x.what == "weight"]
    if not edits:
        return
    hows = [x.how for x in edits if x.how]
    along = [h for h in hows if h.by in ("gradient", "step")]
    scaled = [h for h in hows if h.by == "weights"]
    lone = all(x.bit is not None for x in edits)
    if along and len(along) == len(hows):
        text = f"between two steps {some(names_of(along))} moved by {-along[0].factor:.3g} of the last gradient"
        yield Suspect("second optimizer", LIKELY, names_of(edits), text)
    if e.restored:
        text = f"{some(names_of(edits))} differ from what they were when the probe's state was saved"
        yield Suspect("wrong checkpoint", CERTAIN, names_of(edits), text)
    text = f"between two steps {some(names_of(edits))} changed"
    if scaled and len(scaled) == len(hows):
        by = list(dict.fromkeys(f"{1 + f:.6g}" for f in sorted(h.factor for h in scaled)))
        were = "was" if len(edits) == 1 else "were"
        text = f"between two steps {some(names_of(edits))} {were} multiplied by {' to '.join({by[0]: 0, by[-1]: 0})}"
    elif len(hows) == 1 or (hows and max(h.share for h in hows) < 0.5):
        text += f" ({max(h.share for h in hows):.0%} of the elements)"
    yield Suspect("edited weights", POSSIBLE if lone or along or e.restored else LIKELY, names_of(edits), text)


def edited_state(e: Evidence) -> Iterator[Suspect]:
    edits = [x for x in e.edits if x.what not in ("weight", "gradient")]
    if e.lost:
        text = f"{some(e.lost)} had an optimizer state after their last step, and have none now"
        yield Suspect("momentum lost", LIKELY if e.kept else CERTAIN, e.lost, text)
    zeroed = [x for x in edits if x.how and x.how.by == "momentum" and abs(x.how.factor + 1) < 1e-6]
    if zeroed and len(zeroed) == len(edits):
        text = f"the {zeroed[0].what} of {some(names_of(zeroed))} is zero: it was not when the last step left it"
        yield Suspect("momentum lost", CERTAIN if len(zeroed) > 1 else LIKELY, names_of(zeroed), text)
    if edits:
        lone = all(x.bit is not None for x in edits)
        strength = POSSIBLE if lone or zeroed else LIKELY
        text = f"between two steps the {some([x.what for x in edits])} of {some(names_of(edits))} changed"
        yield Suspect("edited state", strength, names_of(edits), text)
        if not lone and not zeroed:
            yield Suspect("momentum lost", POSSIBLE, names_of(edits), text)
