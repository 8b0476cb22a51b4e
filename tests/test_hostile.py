"""A hundred files that are hardly pictures, in a task and before `taco predict`: right or listed, in bounded memory."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_task
from PIL import Image

pytestmark = pytest.mark.slow

#: Run a command and print its exit code and peak memory in KiB as the last line.
_WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


def noise(seed: int, size: tuple[int, int] = (120, 90), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, form: str, **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def animated(seed: int, form: str) -> bytes:
    frames = [noise(seed + n) for n in range(4)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


#: Name -> (content by number, whether it is a picture that can be used).
KINDS: dict[str, tuple[Callable[[int], bytes], bool]] = {
    "truncated.jpg": (lambda n: encoded(noise(n), "JPEG")[: 300 + 40 * n], False),
    "truncated.png": (lambda n: encoded(noise(n), "PNG")[: 200 + 100 * n], False),
    "empty.jpg": (lambda _: b"", False),
    "bomb.png": (lambda n: png_claiming(30_000 + n, 30_000), False),
    "text.jpg": (lambda n: f"camera {n} was stolen\n".encode() * (n + 1), False),
    "html.png": (lambda _: b"<!doctype html><title>404</title>", False),
    "noise.webp": (lambda n: np.random.default_rng(n).bytes(4000), False),
    "is-a-png.jpg": (lambda n: encoded(noise(n), "PNG"), True),
    "is-a-jpeg.tiff": (lambda n: encoded(noise(n), "JPEG"), True),
    "animated.gif": (lambda n: animated(n, "GIF"), True),
    "animated.webp": (lambda n: animated(n, "WEBP"), True),
    "one-pixel.png": (lambda n: encoded(noise(n, (1, 1)), "PNG"), True),
    "long.png": (lambda n: encoded(noise(n, (20_000, 3)), "PNG"), True),
    "high.png": (lambda n: encoded(noise(n, (3, 20_000)), "PNG"), True),
    "palette.png": (lambda n: encoded(noise(n, mode="P"), "PNG"), True),
    "alpha.png": (lambda n: encoded(noise(n, mode="RGBA"), "PNG"), True),
    "grey-alpha.png": (lambda n: encoded(noise(n, mode="LA"), "PNG"), True),
    "cmyk.jpg": (lambda n: encoded(noise(n, mode="CMYK"), "JPEG"), True),
    "one-bit.bmp": (lambda n: encoded(noise(n, mode="1"), "BMP"), True),
    "sixteen-bit.tif": (lambda n: encoded(noise(n, mode="I;16"), "TIFF"), True),
}


def add_hostile(task: Path) -> tuple[set[str], set[str]]:
    """Spread 100 files over the classes; returns the names that can be used and those that cannot."""
    classes = sorted(p for p in task.iterdir() if p.is_dir())
    good, bad = set(), set()
    for index, (kind, (content, usable)) in enumerate(KINDS.items()):
        for number in range(5):
            path = classes[(index + number) % len(classes)] / f"{number}-{kind}"
            path.write_bytes(content(number))
            (good if usable else bad).add(path.name)
    assert len(good | bad) == 100
    return good, bad


def watched(*command: str) -> tuple[int, int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, sys.executable, "-m", "taco.cli", *command],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    )  # fmt: skip
    *said, last = done.stderr.splitlines()
    code, peak = map(int, last.split())
    return code, peak, done.stdout, "\n".join(said)


def export(task: Path, out: Path) -> tuple[int, int, str, str]:
    return watched(
        *(
            "export",
            str(task),
            "--target",
            "raspberry-pi-4",
            "--macs",
            "0.6",
            "--model",
            "test_efficientnet",
            "--random-weights",
        ),
        *("--shots", "8", "--recover-minutes", "0", "--out", str(out), "--json", "--allocation", "uniform"),
    )


@dataclasses.dataclass(frozen=True)
class Plain:
    """A run on nothing but good pictures: its bundle, and the memory that it took, KiB."""

    bundle: Path
    peak: int


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = tmp_path_factory.mktemp("plain")
    code, peak, _, said = export(draw_task(folder / "site"), folder / "out")
    assert code == 0, said
    return Plain(folder / "out", peak)


def test_hostile_files_in_a_task_are_right_or_listed(plain: Plain, tmp_path: Path) -> None:
    task = draw_task(tmp_path / "hostile")
    good, bad = add_hostile(task)
    code, peak, report, said = export(task, tmp_path / "out")
    assert code == 0, said
    assert "Traceback" not in said
    skipped = {Path(line.split(": ")[0]).name: line.split(": ", 1)[1] for line in json.loads(report)["task"]["skipped"]}
    assert set(skipped) == bad
    assert all(len(reason) > 10 for reason in skipped.values())
    assert not set(skipped) & good
    assert peak < plain.peak + 400_000, (
        "a 900-megapixel bomb, or a picture resized to a strip, must not be held in memory"
    )


def test_hostile_files_are_predicted_or_listed(plain: Plain, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    (frames / "a").mkdir(parents=True)
    good, bad = add_hostile(frames)
    code, peak, table, said = watched("predict", str(plain.bundle), str(frames))
    assert code == 0
    assert "Traceback" not in said
    answers = {Path(row["path"]).name: row for row in csv.DictReader(io.StringIO(table))}
    assert {name for name, row in answers.items() if row["label"]} == good
    assert {name for name, row in answers.items() if row["failure"]} == bad
    assert peak < 700_000
