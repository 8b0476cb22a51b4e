"""Where candidates of `--max-drop` are made and judged: with few shots several times, each without a part of them.

With 16 shots a class, 4 of them are held out for choices: one answer of 32 is 3 points, and what such a search takes
for a point may be six (docs/adr/0023). Made three times, each without another third of the shots, a candidate is judged
by all of them. Each time it has a third of the time, and a little fewer pictures to learn from than the winner, so it
loses rather more than that will.
"""

from __future__ import annotations

from collections.abc import Sequence

from taco.pictures.folds import fold_shots
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
    divided = len(material.task.select) < _ENOUGH and len(parts) > 1
    places = []
    for ground, named in zip(grounds, words, strict=True):
        full = Side(ground.cutter, ground.looks, ground.held_out, SHORT)
        sides = [full]
        if divided:
            minutes = SHORT * ground.options.recover_minutes / len(parts)
            without = [ground.without(held, minutes) for held in parts]
            sides = [Side(one.cutter, one.looks, one.held_out, 1.0) for one in without]
        places.append(Place(full, sides, named))
    return places
