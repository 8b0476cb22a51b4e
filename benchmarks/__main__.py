"""`python -m benchmarks`: run every benchmark of this folder, one after the other."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

import benchmarks


def main() -> None:
    """Run them all."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if not module.name.startswith("_"):
            print(f"== {module.name}")
            cast(object, importlib.import_module(f"benchmarks.{module.name}").main())


if __name__ == "__main__":
    main()
