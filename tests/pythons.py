"""The Pythons of this machine that a device may have: 3.8 and newer, found by their names and in pyenv's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

_CODE = "import sys; print(*sys.version_info[:2])"


@cache
def oldest_and_newest() -> tuple[str, ...]:
    """Their paths, the oldest first; one where there is only one."""
    named = [shutil.which(f"python3.{minor}") for minor in range(8, 20)]
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {
        _version(path): path
        for path in [sys.executable, *filter(None, named), *map(str, sorted(kept.glob("3.*/bin/python3")))]
    }
    known = sorted(version for version in found if version >= (3, 8))
    return tuple(found[version] for version in dict.fromkeys((known[0], known[-1])))


def _version(path: str) -> tuple[int, ...]:
    done = subprocess.run([path, "-I", "-S", "-c", _CODE], capture_output=True, text=True, check=False)
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()
