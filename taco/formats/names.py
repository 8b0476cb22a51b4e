"""Names of classes: what different sources call the same."""

from __future__ import annotations

import unicodedata

#: A picture without an animal; LILA says empty, Camtrap DP and SpeciesNet say blank.
BLANK = "blank"
_BLANK_TOO = frozenset({"blank", "empty"})


def canonical(name: str) -> str:
    """Return the name by which a class is known here: `blank` for blank and empty in any case, others as they look.

    Letters with accents are written as one character: macOS writes folders with two, and most programs labels with one.
    """
    stripped = unicodedata.normalize("NFC", name.strip())
    return BLANK if stripped.casefold() in _BLANK_TOO else stripped
