"""Every command of docs/ is typed as a reader would, page by page, and what the page promises of it is looked for.

`TYPED` holds what each line must do; `LEFT_OUT` the lines that cannot be run here, and why. A line that is in neither
fails, and so does an entry whose line is gone. What is changed of a line stands in reader.py.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import draw_task
from fake_trtexec import make_trtexec
from pages import DOCS, blocks, lines
from reader import Reader
from tiny_bundle import make_bundle

from taco import api

#: Pages whose reader goes on in the folder of the one before; every reader has devices.
READERS = {
    "newcomer": ("index.md", "how-it-works.md", "faq.md"),
    "camera traps": ("camera-traps.md",),
    "raspberry pi": ("raspberry-pi.md",),
    "nuc": ("nuc.md",),
    "jetson": ("jetson.md",),
}


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a line must do.

    Attributes:
        says: Pattern of what it prints.
        makes: Files, as the reader sees them.
        page: A pattern that a file then holds: (file, pattern).
        code: Its exit code.
        there: The folder of the device where it is typed; None is here.
        first: Done by the reader before, as the page says in its sentences.
        then: Done after it.
    """

    says: str = ""
    makes: tuple[str, ...] = ()
    page: tuple[str, str] | None = None
    code: int = 0
    there: str | None = None
    first: Callable[[Reader, list[Path]], None] | None = None
    then: Callable[[Reader, list[Path]], None] | None = None


def run_of(name: str) -> tuple[str, ...]:
    return tuple(f"{name}/{file}" for file in ("report.html", "model.onnx", "labels.txt", "manifest.json"))


def packages(home: Path) -> Path:
    """Stand for `pip install`: an environment sees the packages of this one."""
    folder = next((home / "taco-export" / "venv" / "lib").glob("python3*")) / "site-packages"
    (folder / "here.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def with_runtime(reader: Reader, homes: list[Path]) -> None:
    """Do on every device what doctor says."""
    for home in homes:
        (home / "taco-export").mkdir(exist_ok=True)
        if not (home / "taco-export" / "venv").exists():
            done = reader.other("/usr/bin/python3", "-m", "venv", "--without-pip", str(home / "taco-export" / "venv"))
            assert done.code == 0, done.text
        packages(home)


def pictures_on_the_card(reader: Reader, homes: list[Path]) -> None:
    shutil.copytree(reader.folder / "photos" / "ash", homes[0] / "card")


def named_once(reader: Reader, homes: list[Path]) -> None:
    parts = [part.read_text().splitlines() for part in (homes[0] / "results").glob("*.csv")]
    rows = [row for part in parts for row in csv.DictReader(part)]
    assert len(rows) == len(list((homes[0] / "card").iterdir())), rows


def jetpack(reader: Reader, homes: list[Path]) -> None:
    """What JetPack brings: TensorRT, here the stand-in, and a Python with numpy."""
    make_trtexec(homes[0] / "bin")
    python = homes[0] / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)


def table_named(reader: Reader, homes: list[Path]) -> None:
    """The page's TABLE.json is the file that the line before has named."""
    shutil.copy(max(Path("cache").rglob("*.json"), key=lambda file: file.stat().st_mtime_ns), "TABLE.json")


def another_bundle(reader: Reader, homes: list[Path]) -> None:
    make_bundle(Path("runs/pi2"))


def on_the_processor(reader: Reader, homes: list[Path]) -> None:
    """No built-in GPU is here: the run to compare with is made on the processor."""
    said = reader.type(
        "taco-export photos/ --target host-cpu-openvino --runtime-device CPU --speedup 1.5 --out runs/igpu"
    )
    assert said.code == 0, said.text


def second_run(reader: Reader, homes: list[Path]) -> None:
    shutil.copytree("runs/fast", "runs/trap2")


def as_boxes(reader: Reader, folder: str, name: str) -> None:
    """Write what MegaDetector says of a folder of pictures: one animal in each, but for the last."""
    files = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.png"))
    found = [{"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.8, 0.8]}]
    images = [{"file": file, "detections": found if file != files[-1] else []} for file in files]
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    content = {"images": images, "info": {"format_version": "1.4"}, "detection_categories": categories}
    Path(name).write_text(json.dumps(content))


def site(reader: Reader, homes: list[Path]) -> None:
    """What the page on camera traps takes for granted: boxes, labels with places, and frames without labels."""
    draw_task(Path("frames"), count=3, seed=1)
    as_boxes(reader, "photos", "md.json")
    as_boxes(reader, "frames", "md-frames.json")
    rows = [(path, path.parent.name, f"camera{int(path.stem) // 2}") for path in sorted(Path("photos").rglob("*.png"))]
    table = "".join(f"{path},{label},{place}\n" for path, label, place in rows)
    Path("labels.csv").write_text(f"path,label,location\n{table}")
    names = sorted({label for _, label, _ in rows})
    images = [
        {"id": number, "file_name": path.relative_to("photos").as_posix(), "location": place}
        for number, (path, _, place) in enumerate(rows)
    ]
    notes = [
        {"id": number, "image_id": number, "category_id": names.index(label)}
        for number, (_, label, _) in enumerate(rows)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    Path("labels.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))


TYPED: dict[str, dict[str, Effect]] = {
    "index.md": {
        "taco-export photos/ --target host-cpu --out runs/trap1 --dry-run": Effect("3 classes"),
        "taco-export photos/ --target host-cpu --speedup 1.5 --out runs/trap1": Effect(
            makes=(*run_of("runs/trap1"), "runs/trap1/preprocessing.json")
        ),
        "taco predict runs/trap1 photos/ --format csv --output answers.csv": Effect(
            page=("answers.csv", r"(?s)(\n.*){25}")
        ),
        "taco verify runs/trap1": Effect("."),
        "taco evaluate runs/trap1 photos/": Effect("accura"),
        "taco bench runs/trap1 --idle 1": Effect("ms"),
        "taco report runs/trap1": Effect("runs/trap1/report.html", makes=("runs/trap1/report.html",)),
    },
    "how-it-works.md": {
        "taco bench runs/trap1 --json": Effect(r'"rounds_ms"|"p50"'),
        "taco inspect tf_efficientnet_lite0": Effect("inner"),
        "taco profile --target host-cpu --model tf_efficientnet_lite0": Effect("cells"),
        "taco profile show --plot latency.png": Effect(makes=("latency.png",)),
        "taco database build photos/ --out db": Effect(makes=("db/index.json",)),
        "taco database show db": Effect("conv_head"),
    },
    "faq.md": {
        "taco-export photos/ --target host-cpu --speedup 1.5 --out runs/fast": Effect(makes=run_of("runs/fast")),
        "taco bench runs/trap1 --sustained 30m --report": Effect("runs/trap1/report.html"),
        "taco bench runs/trap1 --sustained 5m --frames-per-day 2000 --battery-wh 100 --report": Effect(
            page=("runs/trap1/report.html", "2,?000")
        ),
        "taco report diff runs/trap1 runs/trap2 --html diff.html": Effect(makes=("diff.html",), first=second_run),
        "taco devices unlock --device ssh://pi@trap1": Effect("nobody had it", first=with_runtime),
    },
    "camera-traps.md": {
        "taco-export photos/ --boxes md.json --target host-cpu --speedup 1.5 --out runs/trap1": Effect(
            makes=run_of("runs/trap1"), first=site
        ),
        "taco-export labels.json --images photos/ --boxes md.json --target host-cpu --out runs/lila": Effect(
            makes=run_of("runs/lila")
        ),
        "taco-export labels.csv --split-by location --target host-cpu --out runs/places": Effect(
            page=("runs/places/report.json", r'"split_by": *"location"')
        ),
        "taco-export photos/ --boxes md.json --unlabelled frames/ --target host-cpu"
        " --speedup 1.5 --out runs/trap2": Effect(page=("runs/trap2/report.json", r'"unlabelled_images": *[1-9]')),
        "taco report diff runs/trap1 runs/trap2": Effect("points"),
        "taco predict runs/trap1 frames/ --boxes md-frames.json --format megadetector --output answers.json": Effect(
            page=("answers.json", "classifications")
        ),
        "taco predict runs/trap1 frames/ --boxes md-frames.json --format csv --output answers.csv": Effect(
            page=("answers.csv", r"(?s)(\n.*){9}")
        ),
    },
    "raspberry-pi.md": {
        "ssh-keygen -t ed25519": Effect(makes=("id_ed25519", "id_ed25519.pub")),
        "ssh pi@trap1 true": Effect(),
        "taco devices doctor --device ssh://pi@trap1": Effect("pip install onnxruntime"),
        "mkdir -p ~/taco-export && cd ~/taco-export": Effect(there="~"),
        "python3 -m venv venv": Effect(there="~/taco-export"),
        "taco-export photos/ --target raspberry-pi-5 --device ssh://pi@trap1 --speedup 1.5 --out runs/pi": Effect(
            r"venv/bin/python .*/agent.pyz predict", makes=run_of("runs/pi")
        ),
        "~/taco-export/venv/bin/python ~/taco-export/bundles/current/agent.pyz predict "
        "~/taco-export/bundles/current PICTURES": Effect(
            r"(?m)^(ash|bay|cob)\t", there="~", first=pictures_on_the_card
        ),
        "taco deploy runs/pi2 --device ssh://pi@trap1 --watch /media/card/DCIM": Effect(
            "(?s)It takes the place of.*taco-watch.service", first=another_bundle
        ),
        "taco deploy --rollback --device ssh://pi@trap1": Effect("bundles"),
        "~/taco-export/venv/bin/python ~/taco-export/bundles/current/agent.pyz watch "
        "~/taco-export/bundles/current /media/card/DCIM results": Effect(there="~", then=named_once),
        "taco bench runs/pi --device ssh://pi@trap1 --sustained 30m --frames-per-day 2000"
        " --battery-wh 100 --report": Effect(page=("runs/pi/report.html", "2,?000")),
        "make bench-raspberry-pi-5 DEVICE=ssh://pi@trap1 RUN=runs/pi": Effect("runs/pi/report.html"),
        "taco-export photos/ --target raspberry-pi-5 --device ssh://pi@trap1"
        " --device ssh://pi@trap2 --out runs/site": Effect(page=("runs/site/report.html", "trap2"), first=with_runtime),
        "taco bench runs/site --device ssh://pi@trap1 --device ssh://pi@trap2 --report": Effect("trap2"),
        "make raspberry-pi-5 TASK=photos/ DEVICE=ssh://pi@trap1": Effect(makes=run_of("runs/raspberry-pi-5")),
    },
    "nuc.md": {
        "taco-export photos/ --target host-cpu-openvino-int8 --speedup 2 --out runs/nuc": Effect(
            makes=run_of("runs/nuc")
        ),
        "taco bench runs/nuc --sweep 1,2,4": Effect("1 threads: "),
        "taco devices doctor --device ssh://ada@nuc1": Effect("pip install"),
        "taco-export photos/ --target intel-nuc --device ssh://ada@nuc1 --speedup 1.5 --out runs/nuc": Effect(
            makes=run_of("runs/nuc"), first=with_runtime
        ),
        "taco bench runs/nuc --device ssh://ada@nuc1 --sustained 30m --report": Effect("runs/nuc/report.html"),
        "make intel-nuc TASK=photos/ DEVICE=ssh://ada@nuc1": Effect(makes=run_of("runs/intel-nuc")),
        "taco-export photos/ --target intel-nuc --macs 0.6 --out runs/nuc": Effect(makes=run_of("runs/nuc")),
        "scp -r runs/nuc ada@nuc1:": Effect(),
        "ssh ada@nuc1 'cd nuc && venv/bin/python agent.pyz bench bench.json'": Effect("ms"),
        "taco-export photos/ --target host-cpu-openvino --runtime-device GPU --speedup 1.5 --out runs/igpu": Effect(
            "GPU", code=5, then=on_the_processor
        ),
        "taco report diff runs/nuc runs/igpu": Effect("points"),
    },
    "jetson.md": {
        "taco targets": Effect("jetson-orin-nano"),
        "taco targets show jetson-orin-nano": Effect("(?s)trt.*#"),
        "taco-export photos/ --target jetson-orin --macs 0.6 --out runs/orin": Effect(makes=run_of("runs/orin")),
        "make jetson-orin-nano TASK=photos/": Effect(makes=run_of("runs/jetson-orin-nano")),
        "taco profile --target jetson-orin --model tf_efficientnet_lite0 --into runs/orin": Effect(
            makes=("runs/orin/units/units.json",)
        ),
        "scp -r runs/orin user@jetson:": Effect(),
        "ssh user@jetson 'cd orin && python3 agent.pyz jetson'": Effect(first=jetpack),
        "scp -r user@jetson:orin runs/orin-back": Effect(makes=run_of("runs/orin-back")),
        "taco report runs/orin-back": Effect(page=("runs/orin-back/report.html", "stand-in")),
        "taco profile collect runs/orin-back": Effect(r"measured", then=table_named),
        "taco-export photos/ --target jetson-orin --speedup 1.4 --latency-table TABLE.json --feedback runs/orin-back"
        " --out runs/orin2": Effect(page=("runs/orin2/report.md", "estimate")),
    },
}
#: Page -> line -> why it is not run here, and what is done in its place.
LEFT_OUT: dict[str, dict[str, tuple[str, Callable[[Reader, list[Path]], None] | None]]] = {
    "index.md": {
        "cd taco-export": ("the reader's own clone", None),
        "make setup": ("CI runs it before these tests; here it would build the environment of the tests anew", None),
        'export PATH="$PWD/.venv/bin:$PATH"': ("a setting of the reader's terminal", None),
    },
    "evidence.md": {"make evidence": ("runs for hours; tests/test_benchmarks_evidence.py has its parts", None)},
    "raspberry-pi.md": {
        "ssh-copy-id pi@trap1": ("asks for a password, which the server on loopback has not", None),
        "venv/bin/python -m pip install onnxruntime numpy pillow": (
            "needs the network; the environment is given this one's packages",
            lambda reader, homes: packages(homes[0]) and None,
        ),
    },
    "nuc.md": {
        "ssh ada@nuc1 'cd nuc && python3 -m venv venv && venv/bin/python -m pip install openvino numpy'": (
            "needs the network; the folder is given the device's environment",
            lambda reader, homes: (homes[0] / "nuc" / "venv").symlink_to(homes[0] / "taco-export" / "venv"),
        ),
    },
}


def test_every_line_is_typed_or_says_why_not() -> None:
    for page in sorted(DOCS.glob("*.md")):
        entries = {**TYPED.get(page.name, {}), **LEFT_OUT.get(page.name, {})}
        assert sorted(lines(page)) == sorted(entries), page.name
    assert {page for pages in READERS.values() for page in pages} == set(TYPED)


def follow(reader: Reader, homes: list[Path], page: str) -> None:
    """Type a page from the top to the bottom."""
    for line in lines(DOCS / page):
        if line in LEFT_OUT.get(page, {}):
            _, in_its_place = LEFT_OUT[page][line]
            if in_its_place is not None:
                in_its_place(reader, homes)
            continue
        effect = TYPED[page][line]
        if effect.first is not None:
            effect.first(reader, homes)
        said = reader.type(line) if effect.there is None else reader.type_there(line, effect.there)
        where = f"{page}: {line}\n{said.text}"
        assert said.code == effect.code, where
        assert re.search(effect.says, said.text), where
        for made in effect.makes:
            assert Path(made).stat().st_size > 0, where
        if effect.page is not None:
            file, pattern = effect.page
            assert re.search(pattern, Path(file).read_text()), f"{where}\n{pattern!r} is not in {file}"
        if effect.then is not None:
            effect.then(reader, homes)


class _Api:
    """`taco.api`, whose requests are those of `ADDED`."""

    def __init__(self, more: dict[str, object]) -> None:
        self._more = more

    def __getattr__(self, name: str) -> object:
        return getattr(api, name)

    def make_options(self, values: dict[str, object]) -> api.ExportOptions:
        return api.make_options({**values, **self._more})


def in_python(capsys: pytest.CaptureFixture[str]) -> None:
    """Run the page on Python behind the quick start: the request is the same, so that the finished run is found."""
    shutil.copytree("photos", "frames")
    more = {"model": "test_efficientnet", "random_weights": True, "shots": 5, "recover_minutes": 0.0}
    more |= {"force": True, "threads": 1}
    for _, language, code in blocks(DOCS / "api.md"):
        if language == "python":
            values = {"api": _Api(more)}
            exec(compile(code.replace("from taco import api\n", ""), "api.md", "exec"), values)  # noqa: S102
    assert capsys.readouterr().out.count("frames/") == 24


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with pytest.MonkeyPatch.context() as patch:
        yield Reader(tmp_path, patch)


@pytest.mark.slow
@pytest.mark.parametrize("who", READERS)
def test_a_reader_who_types_the_pages_gets_what_they_promise(
    who: str, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    with reader.devices() as homes:
        for page in READERS[who]:
            follow(reader, homes, page)
    if who == "newcomer":
        in_python(capsys)
