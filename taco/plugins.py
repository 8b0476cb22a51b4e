"""Find a plug-in by name: our own modules first, then entry points of other packages (ARCHITECTURE section 5)."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from taco.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One kind of plug-in; each is a module with one constant.

    Attributes:
        noun: In messages, such as solver.
        package: Of our own modules, and the group of other packages' entry points.
        own: Names of our own modules.
        constant: What each module holds.
        fault: Says what makes an object no member; empty when it is one.
    """

    noun: str
    package: str
    own: tuple[str, ...]
    constant: str
    fault: Callable[[object], str]

    def load(self, name: str) -> object:
        """Return the member `name`.

        Raises:
            InputError: There is none of that name (the nearest is suggested), or another package's cannot be loaded.
        """
        if name in self.own:
            return getattr(importlib.import_module(f"{self.package}.{name}"), self.constant)
        foreign = {point.name: point for point in entry_points(group=self.package)}
        if name in foreign:
            return self._foreign(foreign[name])
        known = sorted({*self.own, *foreign})
        near = difflib.get_close_matches(name.lower(), known, n=1)
        suggestion = f"Did you mean {near[0]}? " if near else ""
        every = f"{self.noun.capitalize()}s are: {', '.join(known)}"
        raise InputError(f"there is no {self.noun} {name!r}", suggestion + every)

    def _foreign(self, point: EntryPoint) -> object:
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{self.noun} {point.name!r} ({point.value}) cannot be loaded: {error}", "Repair it"
            ) from error
        fault = self.fault(found)
        if fault:
            raise InputError(
                f"{point.value} is no {self.noun}: {fault}", f"Let the entry point name the constant {self.constant}"
            )
        return found
