"""Names of classes: what different sources call the same."""

from __future__ import annotations

#: A picture without an animal; LILA says empty, Camtrap DP and SpeciesNet say blank.
BLANK = "blank"
_BLANK_TOO = frozenset({"blank", "empty"})


def canonical(name: str) -> str:
    """Return the name by which a class is known here: `blank` for blank and empty in any case, others as they are."""
    stripped = name.strip()
    return BLANK if stripped.casefold() in _BLANK_TOO else stripped
