"""Is the model that computes the one that is known: its modules, and the parameters that they hold?"""

from __future__ import annotations

from torch import nn

from neuromech.compat import own_parts


class Composition:
    """What a model is made of, compared with what it was made of at first: by identity, nothing is read."""

    def __init__(self, model: nn.Module) -> None:
        """`model`: not sharded; what shards parameters exchanges them in every forward."""
        modules = dict(model.named_modules())
        held = {name: own_parts(m) for name, m in modules.items()}
        self._children = [(name, now, dict(now)) for name, (_, _, now) in held.items()]
        self._held = [(name, now, dict(now)) for name, (now, _, _) in held.items() if now]
        self._ids = [[*map(id, known.values())] for _, _, known in self._held]

    def rebuilt(self) -> tuple[str, ...]:
        """The modules that have other modules in them now; "" for the model itself."""
        return tuple(name for name, now, known in self._children if now != known)

    def exchanged(self) -> tuple[str, ...]:
        """The parameters in whose place another tensor stands now, as inside of `torch.func.functional_call`."""
        out: list[str] = []
        for (name, now, known), ids in zip(self._held, self._ids, strict=True):
            if [*map(id, now.values())] != ids:
                out += (f"{name}.{key}".lstrip(".") for key, p in known.items() if now.get(key) is not p)
        return tuple(out)
