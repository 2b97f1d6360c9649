"""The embedded data set: scikit-learn's digits, redrawn in the hands of synthetic writers.

scikit-learn ships 1 797 real 8x8 digits without their writers. Here they are assigned to invented
writers, each with a consistent *hand* (rotation, slant, size, stroke), so that a writer leaves a
measurable trace in a trained model. The records are real digits; **the data subjects are
synthetic**.

The images are the same bit for bit on every machine: parameters come from Python's own Mersenne
Twister and are rounded to 1e-6 before use, and pixels are computed with element-wise IEEE
arithmetic only (no BLAS, no vectorised transcendental function), so that no library or processor
can change a rounding.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

SIDE = 16
"""Side of an image, pixels."""

ROTATION_SD, SHEAR_SD, LOG_SCALE_SD, LOG_GAMMA_SD = 16.0, 0.45, 0.20, 0.65
"""Spread of the hands: degrees, and natural units of the shear, the log scale and the log gamma."""


@dataclass(frozen=True)
class Hand:
    """The hand of one writer: the inverse affine map of the page (row, column) and the stroke's
    gamma."""

    rr: float
    rc: float
    cr: float
    cc: float
    gamma: float


def make(
    writers: int = 45, seed: int = 20240
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Make the data set.

    Args:
        writers: number of synthetic writers, 2 or more.
        seed: seed of the hands and of the assignment.

    Returns:
        images (n, 16, 16) uint8 with ink bright, labels (n,) 0-9, writers (n,) 0..writers-1.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pages: NDArray[np.float64] = digits.images
    labels: NDArray[np.int64] = digits.target.astype(np.int64)
    rng = random.Random(seed)
    hands = [_hand(rng) for _ in range(writers)]
    writer = np.empty(len(labels), np.int64)
    for digit in range(10):  # every writer gets every digit, as evenly as the counts allow
        rows_of_digit = np.flatnonzero(labels == digit).tolist()
        rows_of_digit.sort(key=lambda _: rng.random())
        offset = rng.randrange(writers)
        for position, record in enumerate(rows_of_digit):
            writer[record] = (position + offset) % writers
    images = np.empty((len(labels), SIDE, SIDE), np.uint8)
    for number, hand in enumerate(hands):
        images[writer == number] = _write(pages[writer == number], hand)
    return images, labels, writer


def _hand(rng: random.Random) -> Hand:
    normal = NormalDist()
    angle, shear, scale, gamma = (normal.inv_cdf(max(rng.random(), 1e-12)) for _ in range(4))
    turn = math.radians(ROTATION_SD * angle)
    slant = SHEAR_SD * shear
    shrink = math.exp(-LOG_SCALE_SD * scale)
    cos, sin = math.cos(turn) * shrink, math.sin(turn) * shrink
    # page -> source: rotate and scale, then undo the slant (columns move with the row)
    return Hand(
        rr=round(cos, 6),
        rc=round(sin, 6),
        cr=round(-sin - slant * cos, 6),
        cc=round(cos - slant * sin, 6),
        gamma=round(math.exp(LOG_GAMMA_SD * gamma), 6),
    )


def _write(pages: NDArray[np.float64], hand: Hand) -> NDArray[np.uint8]:
    """Draw 8x8 pages of grey 0-16 in a writer's hand; bilinear, blank outside the page."""
    centre = (np.arange(SIDE) - (SIDE - 1) / 2) / (SIDE / 8)
    row, column = centre[:, None], centre[None, :]
    source_row = hand.rr * row + hand.rc * column + 3.5
    source_column = hand.cr * row + hand.cc * column + 3.5
    top, left = np.floor(source_row), np.floor(source_column)
    down, right = source_row - top, source_column - left
    padded = np.pad(pages, ((0, 0), (2, 2), (2, 2)))

    def pick(r: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        return padded[:, np.clip(r + 2, 0, 11).astype(int), np.clip(c + 2, 0, 11).astype(int)]

    upper = pick(top, left) * (1 - right) + pick(top, left + 1) * right
    lower = pick(top + 1, left) * (1 - right) + pick(top + 1, left + 1) * right
    ink = np.floor((upper * (1 - down) + lower * down) * (255 / 16) + 0.5).astype(int)
    stroke = np.array(
        [math.floor(255 * math.pow(level / 255, hand.gamma) + 0.5) for level in range(256)],
        np.uint8,
    )
    return np.asarray(stroke[np.clip(ink, 0, 255)])
