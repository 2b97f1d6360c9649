"""Finds records that look the same; a tree over rough thumbnails finds all candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.data import image_pack

ALIKE = 3.0
"""Root-mean-square difference of two thumbnails, in grey levels of 255, up to which pictures count
as the same."""

PLAIN = 8.0
"""Standard deviation of grey levels below which a thumbnail has too little contrast to compare."""


def twins(
    requested_rows: NDArray[np.intp],
    subject: NDArray[np.intp],
    content: NDArray[np.intp],
    thumbs: NDArray[np.uint8],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of a named record and a record of another subject that have the same bytes or look the
    same.

    Two records look the same if their thumbnails differ by at most `ALIKE` on average. Averages
    over 2 x 4 cells are never further apart than the thumbnails, so a tree over those 8 numbers
    finds all candidates without comparing all pairs.

    Args:
        requested_rows: rows of the records to be forgotten.
        subject: (n,) number of each record's subject.
        content: (n,) a number for each record's file, the same for the same bytes.
        thumbs: (n, 64) grey levels of the records' thumbnails.

    Returns:
        Rows of the named records and of the others, one entry per pair.
    """
    from scipy.spatial import cKDTree

    rough = (
        thumbs.reshape(-1, 2, 4, 4, 2).mean(axis=(2, 4), dtype=np.float32).reshape(len(thumbs), 8)
    )
    same_file = _same_value(requested_rows, content)
    shows = requested_rows[_contrast(thumbs[requested_rows]) >= PLAIN]
    neighbours: list[list[int]] = []
    if len(shows):
        reach = ALIKE * image_pack.THUMB / np.sqrt(image_pack.THUMB) + 1e-3
        neighbours = (
            cKDTree(rough, compact_nodes=False, balanced_tree=False)
            .query_ball_point(rough[shows], reach)
            .tolist()
        )
    left = np.concatenate(
        [same_file[0], np.repeat(shows, [len(rows) for rows in neighbours])]
    ).astype(np.intp)
    right = np.concatenate(
        [same_file[1], *(np.array(rows, np.intp) for rows in neighbours)]
    ).astype(np.intp)
    foreign = subject[left] != subject[right]
    left, right = left[foreign], right[foreign]
    difference = np.sqrt(((thumbs[left].astype(np.float32) - thumbs[right]) ** 2).mean(axis=1))
    is_twin = (difference <= ALIKE) & (
        (_contrast(thumbs[left]) >= PLAIN) | (content[left] == content[right])
    )
    return left[is_twin], right[is_twin]


def _contrast(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(thumbs.astype(np.float32).std(axis=1))


def _same_value(
    rows: NDArray[np.intp], values: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of one of the rows and any row of the same value, by sorting."""
    order = np.argsort(values, kind="stable")
    start = np.searchsorted(values[order], values[rows], "left")
    size = np.searchsorted(values[order], values[rows], "right") - start
    offset = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    return np.repeat(rows, size), order[np.repeat(start, size) + offset]
