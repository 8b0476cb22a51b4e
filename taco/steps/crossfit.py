"""Where candidates of `--max-drop` are made and judged: with few shots several times, each without a part of them.

With 16 shots a class, 4 of them are held out for choices: one answer of 32 is 3 points, and what such a search takes
for a point may be six (docs/adr/0023). Made three times, each without another third of the shots, a candidate is judged
by all of them. Each time it has a third of the time, and a little fewer pictures to learn from than the winner, so it
loses rather more than that will.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from taco.pictures.folds import fold_shots
from taco.recovery.bank_views import BANK_BYTES
from taco.rundir import content_key
from taco.search.drop_search import SHORT, Place, Side
from taco.steps.groundwork import Groundwork

#: Divisions; and so many select pictures judge well enough by themselves.
_SIDES, _ENOUGH = 3, 256


def places_of(grounds: Sequence[Groundwork], words: Sequence[str]) -> list[Place]:
    """Return where candidates are made, for each size of pictures with the same divisions of the shots.

    Args:
        grounds: Of every size.
        words: The sizes, for people.
    """
    own = grounds[0]
    material = own.material
    parts = fold_shots(material.task, material.bank.facts, _SIDES, own.options.seed)
    # what tuned blocks remember cannot be taken away, so the pictures that they have not seen judge alone
    divided = len(material.task.select) < _ENOUGH and len(parts) > 1 and not own.head.tuned
    places = []
    for ground, named in zip(grounds, words, strict=True):
        full = _side(ground, SHORT)
        sides = [full]
        if divided:
            room = BANK_BYTES // len(parts)  # their banks lie on the disk side by side
            minutes = SHORT * ground.options.recover_minutes / len(parts)
            sides = [_side(ground.without(held, minutes, room), 1.0) for held in parts]
        units = ground.plan.units.units
        dense = {u.name: u.width for u in units if u.kind != "block"}
        places.append(Place(full, sides, dense, ground.specialist.module, named))
    return places


def _side(ground: Groundwork, share: float) -> Side:
    """Return a division; what solves its channels belongs to a copy that is dropped with every candidate."""
    options, recovery = ground.options, ground.recovery(keep_zeros=False)
    frames = {"frames": content_key(ground.unlabelled.to_json())} if ground.unlabelled.views else {}
    minutes = share * options.recover_minutes
    key = {**frames, "minutes": minutes, "seed": options.seed, "in_order": options.sequential and not minutes}
    depends_on = {**recovery.depends_on, **recovery.training_key, **key, "looks": ground.looks.each}
    return Side(lambda: copy.copy(ground).cutter(), ground.looks, ground.held_out, share, depends_on)
