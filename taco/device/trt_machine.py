"""A machine made ready to build engines: checked, and its TensorRT known."""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional

from taco.device.trt_engines import Builder
from taco.device.trt_preflight import NVPMODEL, preflight
from taco.device.trt_run import Trtexec, find_trtexec
from taco.device.trt_versions import Recipe, in_words, recipe_for

Say = Callable[[str], None]


class Surroundings(NamedTuple):
    """Where things are on this machine; tests give other places.

    `trtexec` is a path, or None to look for it; `root` is where `proc`, `sys` and `etc` are.
    """

    trtexec: Optional[str] = None
    root: str = "/"
    nvpmodel: str = NVPMODEL


class Machine(NamedTuple):
    """What is ready. `checked` is what `preflight` found."""

    checked: Dict[str, Any]
    trtexec: Trtexec
    recipe: Recipe

    def builder(self, folder: str) -> Builder:
        """Return what builds the engines of the graphs in a folder; they go to `engines` in it."""
        probed = self.checked["probe"]
        system = {key: probed[key] for key in ("board", "machine", "jetson_linux")}
        system["gpu"] = self.checked["gpu"]
        return Builder(self.trtexec, self.recipe, folder, system, self.checked["workspace_mib"])

    def facts(self) -> Dict[str, Any]:
        """Plain JSON values that stand beside every figure."""
        return {
            "tensorrt": in_words(self.trtexec.version),
            "recipe": self.recipe.family,
            "strongly_typed": self.recipe.strong,
            **{key: self.checked[key] for key in ("hardware", "power_mode", "memory_free_mib", "workspace_mib")},
            "warnings": self.checked["warnings"],
        }


def set_up(here: Surroundings, say: Say) -> Machine:
    """Check the machine and find TensorRT.

    Args:
        here: Where things are.
        say: Told of warnings and of the version.

    Raises:
        DeviceError: Something is missing, or TensorRT is of a line that is not known.
    """
    checked = preflight(here.root, here.nvpmodel)
    for warning in checked["warnings"]:
        say(f"warning: {warning}")
    trtexec = Trtexec(find_trtexec(here.trtexec, here.root))
    recipe = recipe_for(trtexec.version)
    say(f"TensorRT {in_words(trtexec.version)}, {'strongly' if recipe.strong else 'weakly'} typed networks")
    return Machine(checked, trtexec, recipe)
