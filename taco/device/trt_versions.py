"""Which TensorRT this is and how an engine is built with it: the versions that JetPack ships (RUNTIMES.md).

8.6 and 10.3 build weakly typed networks, in which flags allow FP16 and INT8; from 10.12 on networks are strongly typed,
and 11 knows nothing else: what the graph says is what is computed.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Tuple

from taco.device.wire import DeviceError

Version = Tuple[int, int, int]

OLDEST: Version = (8, 6, 0)
STRONG_FROM: Version = (10, 12, 0)
NEWEST_MAJOR = 11
_BANNER = re.compile(r"\[TensorRT v(\d+)\]")


class Recipe(NamedTuple):
    """How engines are built with one TensorRT.

    `family` is the version whose options it has (8.6, 10.3, 10.16 or 11); `strong` says that networks are strongly
    typed; `most_opset` is the newest operator set that its parser reads.
    """

    family: str
    strong: bool
    most_opset: int

    @property
    def edition(self) -> str:
        """Which of a model's graphs is built: `strong` or `weak`."""
        return "strong" if self.strong else "weak"


RECIPES = {
    "8.6": Recipe("8.6", strong=False, most_opset=17),
    "10.3": Recipe("10.3", strong=False, most_opset=20),
    "10.16": Recipe("10.16", strong=True, most_opset=24),
    "11": Recipe("11", strong=True, most_opset=24),
}


def recipe_for(version: Version) -> Recipe:
    """Return the recipe for a TensorRT.

    Args:
        version: Major, minor and patch.

    Raises:
        DeviceError: It is older than 8.6, or of a line that no JetPack ships.
    """
    shown = in_words(version)
    if version < OLDEST:
        raise DeviceError(
            f"TensorRT {shown} is too old: it takes LayerNormalization apart, and FP16 then goes silently wrong",
            "Install TensorRT 8.6, which NVIDIA offers as an add-on for JetPack 5.1, or JetPack 6 or later.",
        )
    if version[0] == 9 or version[0] > NEWEST_MAJOR:
        raise DeviceError(
            f"TensorRT {shown} is not known to this program: it knows 8.6, 10 and 11",
            "Use a JetPack with one of those, or a newer taco-export.",
        )
    if version[0] == 8:
        return RECIPES["8.6"]
    if version[0] == 11:
        return RECIPES["11"]
    return RECIPES["10.16"] if version >= STRONG_FROM else RECIPES["10.3"]


def version_in(text: str) -> Version:
    """Read the version from what trtexec prints first, such as `[TensorRT v100300]`.

    Raises:
        DeviceError: It is not there.
    """
    match = _BANNER.search(text)
    if match is None:
        raise DeviceError(
            f"trtexec does not say its version; it said: {text.strip()[-300:]!r}",
            "Check that it is NVIDIA's trtexec, and that it runs by itself.",
        )
    number = int(match.group(1))
    if number >= 100_000:
        return number // 10_000, number // 100 % 100, number % 100
    return number // 1000, number // 100 % 10, number % 100


def in_words(version: Version) -> str:
    """`10.3.0`."""
    return ".".join(map(str, version))
