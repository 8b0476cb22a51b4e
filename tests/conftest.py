"""Fixtures that several test files share: a small task of drawn pictures, and the real pictures where they are."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Callable, Iterator

# Two workers share two cores: torch with a thread for each core in both is several times slower than with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    from taco import api

# The default deadline of 200 ms an example would make tests assert time on a busy machine.
settings.register_profile("taco", deadline=None)
settings.load_profile("taco")

ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def logging_as_it_was() -> Iterator[None]:
    """The command line points the root logger at the stderr of the moment, which pytest closes after the test."""
    root, ours = logging.getLogger(), logging.getLogger("taco")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    with logging_as_it_was():
        yield


@pytest.fixture(scope="session", autouse=True)
def _unquiet() -> Iterator[None]:
    """Two workers disturb each other's clocks: what is repeated until a machine is quiet would take all of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taco.search.bench._PAUSE_S", 0.0)
        patch.setattr("taco.search.profile_job._REPEAT_SHARE", 0.03)
        yield


def draw_task(folder: Path, classes: tuple[str, ...] = ("ash", "bay", "cob"), count: int = 8, seed: int = 0) -> Path:
    """Draw noisy stripes whose colour and direction tell the class."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            ramp = np.sin(np.arange(96) * (0.2 + 0.25 * index) + rng.uniform(0, 6))
            stripes = np.tile(ramp, (96, 1)) if index % 2 else np.tile(ramp[:, None], (1, 96))
            pixels = rng.normal(110, 25, (96, 96, 3))
            pixels[..., index % 3] += 60 * stripes
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


def touch(path: Path, content: str = "") -> Path:
    """Write a file of any bytes, which is a picture to whoever only lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or str(path))
    return path


def folder(root: Path, **counts: int) -> Path:
    """Make an image folder with so many files a class."""
    for name, count in counts.items():
        for number in range(count):
            touch(root / name / f"{number:03}.jpg")
    return root


@pytest.fixture
def drawn_task(tmp_path: Path) -> Path:
    return draw_task(tmp_path / "site")


@pytest.fixture(scope="session")
def pi_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task of `pi_run`; tests leave it as it is."""
    return draw_task(tmp_path_factory.mktemp("pi-site") / "site")


@pytest.fixture(scope="session")
def pi_run(pi_site: Path, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """One finished run for an absent Raspberry Pi (tiny_run.py); tests that change it copy it first."""
    from tiny_run import options

    from taco import api

    return api.export(options(pi_site, tmp_path_factory.mktemp("pi-run") / "out"))


@pytest.fixture(scope="session")
def real_pictures() -> Path:
    """The folder of real pictures; tests that need it are skipped, saying so, where it is absent."""
    folder = Path(os.environ.get("TACO_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real pictures in {folder}; set TACO_TEST_DATA")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs of a given size, or with other options; skips where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        remount = ["-o", f"remount,{options}"] if mounted else ["-t", "tmpfs", "-o", options]
        done = subprocess.run(["mount", *remount, "tmpfs", str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)
