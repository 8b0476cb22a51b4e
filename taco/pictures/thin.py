"""Take no more pictures of a class than a person has time for, spread over all places."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from itertools import chain, zip_longest

from taco.pictures.listing import LabelledPicture, Listing


def thin(listing: Listing, most: int, seed: int) -> Listing:
    """Keep at most `most` pictures of each class, drawn evenly over locations and sequences, seeded.

    Args:
        listing: Everything there is.
        most: Pictures a class; 0 keeps all.
        seed: Draws them.
    """
    by_class: dict[int, list[LabelledPicture]] = defaultdict(list)
    for picture in listing.pictures:
        by_class[picture.label_index].append(picture)
    if most == 0 or max(map(len, by_class.values()), default=0) <= most:
        return listing
    kept = [p for index in sorted(by_class) for p in _spread(by_class[index], most, seed)]
    left = len(listing.pictures) - len(kept)
    warning = f"{left} of {len(listing.pictures)} pictures of {listing.name} are not read: --max-images {most} a class"
    return dataclasses.replace(listing, pictures=tuple(kept), warnings=(*listing.warnings, warning))


def _spread(pictures: list[LabelledPicture], most: int, seed: int) -> list[LabelledPicture]:
    """Return `most` pictures in their own order: one of every place in turn."""
    if len(pictures) <= most:
        return pictures
    places: dict[tuple[str, str], list[tuple[bytes, int]]] = defaultdict(list)
    for position, picture in enumerate(pictures):
        rank = hashlib.sha256(f"{seed}\0{position}".encode()).digest()
        places[picture.location or "", picture.sequence or ""].append((rank, position))
    queues = sorted(sorted(queue) for queue in places.values())
    turns = chain.from_iterable(zip_longest(*queues))
    drawn = [entry for entry in turns if entry is not None][:most]
    return [pictures[position] for _, position in sorted(drawn, key=lambda entry: entry[1])]
