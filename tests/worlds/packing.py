"""Make a pack for the tests of other stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks import pack
from tasks.common.settings import Data
from tasks.data import image_pack


def pack_for(folder: Path, data: Data) -> Path:
    """The pack of `folder/data`, in `folder/pack`."""
    pack.make(folder / "data", data, folder / "pack")
    return folder / "pack"


def images(folder: Path, data: Data) -> NDArray[np.uint8]:
    """What the stages are shown of a data folder."""
    pack.make(folder, data, folder / ".pack")
    return image_pack.read(folder / ".pack", folder, data).images(slice(None))
