"""`python -m benchmarks`: run every benchmark of this folder but those that take hours, one after the other."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

import benchmarks

#: They work off cells for hours; each is called by its name.
LONG = (
    "allocation", "clocks", "evidence", "front", "int8", "loop", "minutes", "recovery", "specialisation",
    "two_runtimes", "widths",
)  # fmt: skip


def main() -> None:
    """Run all but the long ones."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if not module.name.startswith("_") and module.name not in LONG:
            print(f"== {module.name}")
            cast(object, importlib.import_module(f"benchmarks.{module.name}").main())


if __name__ == "__main__":
    main()
