"""In what mode, by which modules and tensors, and in which number format the forward that trains is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.detect import tensors_of
from neuromech.hooks.composition import Composition
from neuromech.hooks.ranks import any_sharded
from neuromech.rng import GeneratorStates, same, states

TF32 = 2.0**-10  # the spacing of numbers around 1 in the format that NVIDIA's tensor cores round float32 to


class ForwardModes:
    """Watches the forwards of a model that are computed with gradients.

    `eps`: of the coarsest format seen in it, 0 before the first; `steps`: how many steps had been taken at the last.
    """

    def __init__(self, model: nn.Module, device: torch.device, begun: Callable[[], None]) -> None:
        """`model`: without its wrappers; `begun` is called ahead of every such forward."""
        self.eps = 0.0
        self.steps = 0
        self.now = 0  # how many steps have been taken: told from outside
        self.count = 0  # of such forwards
        self.drew = False  # the last one drew random numbers
        self.kind = (False, False)  # of the last one: do its inputs ask for a gradient, is the model in training
        self.resized = False  # the last one met inputs of another size than the first that trained, but for batches
        self._sizes: list[torch.Size] | None = None  # of samples, in the first that trained
        self._last_sizes: list[torch.Size] = []
        self._model, self._device, self._begun = model, device, begun
        self.renew()
        self._exchanged: set[str] = set()  # in the forwards since a step
        self._training: dict[str, bool] | None = None
        self._last: dict[str, bool] = {}
        self._random: GeneratorStates | None = None

    def renew(self) -> None:
        """The model is as it should be: sharded, with its parts exchanged."""
        self._modules = dict(self._model.named_modules())
        self._composition = None if any_sharded(self._model.parameters()) else Composition(self._model)

    def changed(self) -> tuple[str, ...]:
        """The modules that were in another mode in the last forward than in the first that trained."""
        if self._training is None:
            self._training, self._sizes = self._last, self._last_sizes
        names = [name for name, mode in self._last.items() if self._training.setdefault(name, mode) != mode]
        leaves = [n for n in names if not any(other.startswith(f"{n}." if n else "") and other != n for other in names)]
        return tuple(n for n in leaves if _mode_matters(self._modules[n]))

    def rebuilt(self) -> tuple[str, ...]:
        """The modules that have other modules in them than when the model was instrumented."""
        return self._composition.rebuilt() if self._composition else ()

    def exchanged(self) -> tuple[str, ...]:
        """The parameters in whose place other tensors stood in a forward of this step, and which are back."""
        if not (self._exchanged and self._composition):
            return ()
        return tuple(sorted(self._exchanged.difference(self._composition.exchanged())))

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        self._begun()
        if self._composition:
            if self.steps != self.now:
                self._exchanged = set()
            self._exchanged.update(self._composition.exchanged())
        self._last = {name: m.training for name, m in self._modules.items()}
        self.kind = any(x.requires_grad for x in _tensors((args, kwargs))), model.training
        self._last_sizes = [x.shape[1:] for x in _tensors((args, kwargs))]
        self.resized = self._sizes is not None and self._last_sizes != self._sizes
        self.steps = self.now
        self.count += 1
        self._random = states([self._device])
        self.eps = max(self.eps, precision(self._device))

    def after(self, model: nn.Module, output: Any) -> None:
        if torch.is_grad_enabled():
            self.drew = self._random is not None and not same(self._random, states([self._device]))
            self.eps = max([self.eps, *(_eps(t) for t in tensors_of(output))])


def _tensors(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else ()
    return [x for part in parts for x in _tensors(part)]


_MODAL = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
)


def _mode_matters(m: nn.Module) -> bool:
    """True for modules that compute something else in training; of one that is not torch's own we cannot know."""
    if isinstance(m, _MODAL):
        return True
    return not type(m).__module__.startswith("torch.nn.")


def precision(device: torch.device) -> float:
    """The spacing of numbers around 1 in what autocast and tensor cores make of float32 on `device`, 0 if nothing."""
    eps = 0.0
    if torch.is_autocast_enabled(device.type):
        eps = float(torch.finfo(torch.get_autocast_dtype(device.type)).eps)
    if device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
        eps = max(eps, TF32)
    return eps


def _eps(t: Tensor) -> float:
    return float(torch.finfo(t.dtype).eps) if t.is_floating_point() else 0.0
