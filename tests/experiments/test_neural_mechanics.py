"""Tiny ImageNet is read as it is laid out, and a folder that is not is refused with words."""

from pathlib import Path

import pytest
import torch

from experiments.tiny_imagenet import TinyImageNet
from neuromech.errors import NeuromechError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "wnids.txt").write_text("n01\nn02\n")
    for name, colour in (("n01", (255, 0, 0)), ("n02", (0, 0, 255))):
        (tmp_path / "train" / name / "images").mkdir(parents=True)
        for k in range(2):
            image.new("RGB", (64, 64), colour).save(tmp_path / "train" / name / "images" / f"{name}_{k}.JPEG")
    return tmp_path


def test_images_come_with_their_classes(folder: Path) -> None:
    data = TinyImageNet(folder)
    x, y = data.batch(torch.tensor([0, 3]))
    assert (len(data), tuple(x.shape), y.tolist()) == (4, (2, 3, 64, 64), [0, 1])
    assert x[0, 0].mean() > x[0, 2].mean()  # red
    assert x[1, 2].mean() > x[1, 0].mean()  # blue


def test_what_is_not_the_layout_is_refused(folder: Path) -> None:
    with pytest.raises(NeuromechError, match=r"wnids\.txt does not exist"):
        TinyImageNet(folder / "train")
    broken = folder / "train" / "n02" / "images" / "n02_1.JPEG"
    broken.write_bytes(b"no image")
    with pytest.raises(NeuromechError, match="not an image that can be read"):
        TinyImageNet(folder).batch(torch.tensor([3]))
    for path in broken.parent.glob("*"):
        path.unlink()
    with pytest.raises(NeuromechError, match=r"holds no \*\.JPEG"):
        TinyImageNet(folder)
    (folder / "wnids.txt").write_text("")
    with pytest.raises(NeuromechError, match="names no class"):
        TinyImageNet(folder)
