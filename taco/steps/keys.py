"""What each step's result depends on: change one of these and exactly the steps that it touches are done again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from taco.pictures.bank import CROP_MARGIN
from taco.rundir import content_key

_LIBRARIES = ("pillow", "timm", "torch")


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """The chain of dependencies; each is a dictionary of JSON values.

    Attributes:
        pictures: Of the decoded pictures.
        head: Of the head, and of all that is computed with the dense specialist on the task's pictures.
    """

    pictures: dict[str, Any]
    head: dict[str, Any]

    @classmethod
    def of(cls, asked: dict[str, Any], preprocessing: dict[str, Any]) -> Keys:
        """Derive them from what was asked (`Plan.asked`)."""
        options = asked["options"]
        pictures = {
            "listed": asked["pictures"],
            "preprocessing": preprocessing,
            "crop_margin": CROP_MARGIN,
            "versions": asked["versions"],
        }
        head = {
            "pictures": content_key(pictures),
            **{name: options[name] for name in ("shots", "seed", "split_by", "classes", "head", "fine_tune", "model")},
            **{name: asked[name] for name in ("weights_sha256", "class_map_sha256")},
            "folds": "what has one role together",
            "on": "fit" if options["fine_tune"] and options["max_drop"] is not None else "shots",
        }
        return cls(pictures, head)

    def lacking(self, pictures: Sequence[Path]) -> Keys:
        """Return the keys of what is made without some of the pictures, which may be there another time."""
        if not pictures:
            return self
        return dataclasses.replace(self, head={**self.head, "lacking": content_key(sorted(map(str, pictures)))})

    def after_head(self, **more: Any) -> dict[str, Any]:
        """Return the key of a step that depends on the specialist, the task's pictures and on `more`."""
        return {"head": content_key(self.head), **more}


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {name: version(name) for name in ("taco-export", *_LIBRARIES)}
