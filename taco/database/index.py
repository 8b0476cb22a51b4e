"""`index.json` of a database: what is in it, from what it was made, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from taco.errors import InputError
from taco.files import write_atomically

SCHEMA_VERSION = 2
INDEX = "index.json"
REPAIR = "Build it again: what is whole stays"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LevelEntry(_Model):
    """One layer at one level.

    Attributes:
        loss: 1/2 tr(dW H dW^T) on the damped second moments.
        kept: Weights that the mask keeps.
    """

    loss: float = Field(ge=0, allow_inf_nan=False)
    kept: int = Field(ge=0)


class Inputs(_Model):
    """What a layer's solutions depend on; levels come and go beside it.

    Attributes:
        weights_sha256: Of the dense weights.
        calibration: Of the model and the pictures that the second moments come from.
        solver: Name of the solver.
        solver_version: Which mathematics that name stood for.
        damping: As asked, "auto" or a number.
    """

    weights_sha256: Sha256
    calibration: Sha256
    solver: str
    solver_version: str
    damping: float | str


class UnitEntry(_Model):
    """One layer.

    Attributes:
        file: Its safetensors file, beside the index.
        sha256: Of the file.
        size_bytes: Of the file.
        shape: Of the layer's weight.
        groups: Of the layer.
        inputs: What the solutions depend on.
        moments_sha256: Of the second moments.
        damping: That was used, a multiple of mean(diag H).
        energy: 1/2 tr(W H W^T) of the dense weights on the damped second moments: the loss of removing everything.
        levels: Level -> what is known of it.
    """

    file: str = Field(pattern=r"^units/[\w.-]+\.safetensors$")
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    shape: list[int]
    groups: int = Field(ge=1)
    inputs: Inputs
    moments_sha256: Sha256
    damping: float = Field(ge=0)
    energy: float = Field(ge=0, allow_inf_nan=False)
    levels: dict[str, LevelEntry]


class ChannelInputs(_Model):
    """What the order of a unit's channels depends on.

    Attributes:
        sha256: Of the weights and the moments of all layers that read the unit, and of where its channels lie.
        version: Which mathematics.
        damping: Multiple of mean(diag H).
    """

    sha256: Sha256
    version: str
    damping: float


class ChannelEntry(_Model):
    """A unit of channels: the order in which they leave, and the loss at every width.

    Attributes:
        file: Its safetensors file, beside the index.
        sha256: Of the file.
        size_bytes: Of the file.
        kind: Of the unit, see `taco.units`.
        width: Of the dense unit.
        multiple: Channels leave so many at a time.
        inputs: What the order depends on.
    """

    file: str = Field(pattern=r"^units/[\w.-]+\.safetensors$")
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    kind: str
    width: int = Field(ge=1)
    multiple: int = Field(ge=1)
    inputs: ChannelInputs


class Skipped(_Model):
    """What is not there and why; `level` is None when the whole layer stays dense."""

    layer: str
    level: str | None
    reason: str


class Index(_Model):
    """The whole index.

    Attributes:
        schema_version: Of this file.
        made_by: Version of taco-export.
        finished: What the last finished build was asked for; None while a build has not finished.
        units: Layer -> what is known of it, in the model's order.
        skipped: Layers and levels that stay dense.
        channels: Unit of channels -> what is known of its widths; since version 2.
        channels_finished: What the last finished build of all widths was asked for.
        content_sha256: Of everything else here.
    """

    schema_version: int = SCHEMA_VERSION
    made_by: str
    finished: Sha256 | None = None
    units: dict[str, UnitEntry] = Field(default_factory=dict)
    skipped: list[Skipped] = Field(default_factory=list)
    channels: dict[str, ChannelEntry] = Field(default_factory=dict)
    channels_finished: Sha256 | None = None
    content_sha256: Sha256 | None = None

    def write(self, folder: Path) -> None:
        """Replace the index of a folder, whole or not at all."""
        body = self.model_dump(mode="json", exclude={"content_sha256"})
        text = json.dumps({**body, "content_sha256": _hash(body)}, indent=1) + "\n"
        write_atomically(folder / INDEX, text.encode())


def read_index(folder: Path) -> Index:
    """Read and check.

    Raises:
        InputError: There is no database, it is damaged, or a newer version made it.
    """
    path = folder / INDEX
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no database", "Make one with `taco database build`") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", REPAIR) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged", REPAIR) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION and _hash(_body(content)) == content.get("content_sha256"):
        raise InputError(f"{path} was made by a newer version of taco-export", "Update taco-export")
    try:
        index = Index.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is damaged", REPAIR) from error
    if index.content_sha256 != _hash(_body(content)):
        raise InputError(f"{path} is damaged", REPAIR)
    return index


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "content_sha256"}


def _hash(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
