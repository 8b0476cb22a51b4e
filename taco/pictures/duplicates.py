"""Which pictures are copies of each other: the same bytes, or nearly the same look.

A near copy is told by the Hamming distance of two 256-bit perceptual hashes (`taco.pictures.facts.Facts`). Measured on
real photographs at 224 pixels: re-encoded, resized, grey, brighter, darker, noisy copies of 263 differ in at most 52
bits, centred crops of 4 % too, corner crops of 2 % in up to 66 (99 of 100 in up to 60); of crops of 8 % 4 in 10 are
found. Of the 5.8 million pairs of 3,412 photographs 9 differ in up to 60 bits and 23 in up to 84, where unrelated ones
begin. Where the range from 60 to 84 is full the hash does not tell copies from pictures of one kind, and only a
distance that nothing but a re-encoding gives counts. Of 2,624 solar cells 552 are held together all the same: in the 22
pairs looked at, both show the same grain; some are one cell photographed twice, others seem to be cut from one block.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taco.errors import TaskError

#: One label a picture; pictures with equal labels belong together.
Labels = npt.NDArray[np.intp]

HASH_BYTES = 32
SAME_BITS, NEAR_BITS, DOUBTFUL_BITS = 6, 60, 84
#: A picture that more others resemble than this shows what all frames of a camera show, such as darkness and a banner.
MOST_ALIKE = 50
#: Half of a hash's bits are set, but for pictures that are flat: their hash is rounding noise.
_SET_BITS, _SET_SLACK = 128, 8
_BLOCK = 64


def exact_copies(paths: Sequence[Path]) -> Labels:
    """Label files by content. Links to one file are one file.

    Args:
        paths: What to compare; only files of equal size are read.

    Raises:
        TaskError: A file is no longer there.
    """
    places = [os.path.realpath(path) for path in paths]
    try:
        sizes = {place: Path(place).stat().st_size for place in set(places)}
        shared = {size for size, count in Counter(sizes.values()).items() if count > 1}
        keys = {p: _digest(p) if size in shared else p for p, size in sizes.items()}
    except OSError as error:
        raise TaskError(f"cannot read {error.filename}: {error.strerror}", "Leave the pictures in place") from error
    return labels_of([keys[place] for place in places])


def _digest(place: str) -> str:
    with Path(place).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def labels_of(keys: Sequence[object]) -> Labels:
    """Number hashable keys in the order of their first appearance."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.intp)


def near_copies(hashes: npt.NDArray[np.uint8]) -> Labels:
    """Label pictures by look: the connected parts of the graph of near copies.

    Args:
        hashes: (n, HASH_BYTES) uint8. 20,000 take seconds and some 20 MB beyond the pairs found.
    """
    labels = np.arange(len(hashes), dtype=np.intp)
    set_bits = np.bitwise_count(hashes).sum(1, dtype=np.int64)
    telling = np.flatnonzero(np.abs(set_bits - _SET_BITS) <= _SET_SLACK)
    if len(telling) == 0:
        return labels
    distinct, first, back = np.unique(hashes[telling], axis=0, return_index=True, return_inverse=True)
    looks = _connect(np.ascontiguousarray(distinct).view(np.uint64))
    labels[telling] = telling[first][looks][back.reshape(-1)]  # a look is named by one of its pictures
    return labels


def _connect(words: npt.NDArray[np.uint64]) -> Labels:
    """Label (m, 4) distinct hashes, each by one of its part."""
    parts = np.arange(len(words), dtype=np.intp)
    clear = np.zeros(len(words), bool)
    pairs = []
    for start in range(0, len(words), _BLOCK):
        distances = _distances(words[start : start + _BLOCK], words)
        alike = (distances <= NEAR_BITS).sum(1) - 1
        doubtful = (distances <= DOUBTFUL_BITS).sum(1) - 1 - alike
        clear[start : start + _BLOCK] = (alike <= MOST_ALIKE) & (4 * doubtful <= alike)
        rows, columns = np.nonzero(distances <= SAME_BITS)
        parts = _join(parts, rows + start, columns)
        rows, columns = np.nonzero((distances <= NEAR_BITS) & clear[start : start + _BLOCK, None])
        pairs.append(np.stack([rows + start, columns])[:, rows + start < columns])
    near = np.concatenate(pairs, axis=1)
    near = near[:, clear[near].all(0)]
    return _join(parts, near[0], near[1])


def _distances(some: npt.NDArray[np.uint64], words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    distances = np.zeros((len(some), len(words)), np.uint16)  # 256 does not fit 8 bits
    for word in range(words.shape[1]):
        distances += np.bitwise_count(some[:, word, None] ^ words[None, :, word])
    return distances


def _join(parts: Labels, rows: Labels, columns: Labels) -> Labels:
    """Unite the parts that pairs of members connect; a part is labelled by the lowest of its labels."""
    while True:
        left, right = parts[rows], parts[columns]
        differ = left != right
        if not differ.any():
            return parts
        left, right = left[differ], right[differ]
        lowest = np.arange(len(parts), dtype=np.intp)
        np.minimum.at(lowest, np.maximum(left, right), np.minimum(left, right))
        while (lowest[lowest] != lowest).any():
            lowest = lowest[lowest]
        parts = lowest[parts]


def together(*labellings: Labels) -> Labels:
    """Put into one group what any of several labellings of the same pictures puts together."""
    parts = np.arange(len(labellings[0]), dtype=np.intp)
    for labels in labellings:
        _, first, back = np.unique(labels, return_index=True, return_inverse=True)
        parts = _join(parts, np.arange(len(labels)), first[back.reshape(-1)])
    return parts


def sets_of(labels: Labels) -> dict[int, list[int]]:
    """Return the positions of every label, both in ascending order of first appearance."""
    members: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels.tolist()):
        members[label].append(position)
    return members
