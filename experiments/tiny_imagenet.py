"""Tiny ImageNet from a folder of the user's: the standard layout, checked before anything is trained.

PATH/wnids.txt                        200 classes, one a line
PATH/train/<class>/images/*.JPEG      500 images of 64 x 64 each
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from neuromech.errors import NeuromechError

MEAN, DEVIATION = (0.480, 0.448, 0.398), (0.277, 0.269, 0.282)


class TinyImageNet:
    """Training images, decoded as they are asked for. Raises `NeuromechError` if the folder is not laid out so."""

    def __init__(self, folder: Path) -> None:
        names = folder / "wnids.txt"
        if not names.is_file():
            raise NeuromechError(
                f"{names} does not exist: --data takes the unpacked folder tiny-imagenet-200, with wnids.txt and "
                "train/<class>/images/*.JPEG in it"
            )
        self.classes = names.read_text().split()
        if not self.classes:
            raise NeuromechError(f"{names} names no class: it must hold one class a line; unpack the archive again")
        self.files: list[Path] = []
        self.labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = sorted((folder / "train" / name / "images").glob("*.JPEG"))
            if not found:
                raise NeuromechError(
                    f"{folder / 'train' / name / 'images'} holds no *.JPEG, and wnids.txt names its class: "
                    "unpack the archive again"
                )
            self.files += found
            self.labels += [label] * len(found)

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images [n, 3, 64, 64], normalised, and their classes [n]."""
        picked = rows.tolist()
        return torch.stack([_decoded(self.files[i]) for i in picked]), torch.tensor([self.labels[i] for i in picked])


def _decoded(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype="float32") / 255
    except (UnidentifiedImageError, OSError) as error:
        raise NeuromechError(f"{path} is not an image that can be read ({error}): unpack the archive again") from error
    return (torch.from_numpy(pixels).permute(2, 0, 1) - _channels(MEAN)) / _channels(DEVIATION)


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]
