"""The mean and standard deviation that normalise pixels before a model sees them."""

from __future__ import annotations

from tasks.common import settings
from tasks.common.errors import SettingsError


def normalisation(
    model: settings.Model, channels: int, side: int | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, for pixels in 0 … 1.

    Args:
        model: `preset`, or else `mean` and `std`.
        channels: of the images.
        side: of the images, pixels, to be compared with the preset's crop; None: not compared.

    Raises:
        SettingsError: torchvision has no such preset, or it is for other images.
    """
    mean, std = _preset(model.preset, channels, side) if model.preset else (model.mean, model.std)
    return _per_channel(mean, channels, "mean"), _per_channel(std, channels, "std")


def _per_channel(values: float | tuple[float, ...], channels: int, key: str) -> tuple[float, ...]:
    per_channel = values if isinstance(values, tuple) else (values,) * channels
    if len(per_channel) != channels:
        raise SettingsError(
            f"model.{key} has {len(per_channel)} values, expected one number or {channels}, "
            "one per channel"
        )
    return per_channel


def _preset(
    name: str, channels: int, side: int | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of torchvision's transforms for its weights; no file is read."""
    from torchvision import models

    try:
        transforms = models.get_weight(name).transforms()
        mean, std = tuple(map(float, transforms.mean)), tuple(map(float, transforms.std))
        (crop,) = set(transforms.crop_size)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"model.preset: got {name!r}; expected weights of a classifier of torchvision, such as "
            "ResNet18_Weights.IMAGENET1K_V1"
        ) from error
    if len(mean) != channels:
        raise SettingsError(f"model.preset {name} is for colour; set data.channels={len(mean)}")
    if side not in (None, crop):
        raise SettingsError(
            f"model.preset {name} is for images of {crop} pixels, and data.image_size is {side}; "
            f"set data.image_size={crop}, or leave the preset and set model.mean={list(mean)} and "
            f"model.std={list(std)}"
        )
    return mean, std
