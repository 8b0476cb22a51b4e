"""`taco.toml`: what may stand in it, where it is looked for, what wins over it; a dumped one reads the same."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.commands import config
from taco.commands.config import Flag, dump_config, read_config
from taco.commands.request import make_request
from taco.errors import InputError
from taco.options import ExportOptions, SplitBy, make_options

FLAGS = [Flag(field, f"What {field} does.", "The task") for field in ExportOptions.model_fields]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


ALL = """
task = "photos/"
target = "jetson-orin"
out = "/runs/a"
classes = ["fox", "hare, brown"]
shots = 8
eval = "../val"
class-map = "map.csv"
images = "."
boxes = "md.json"
crop = false
min_confidence = 0.5
max-images = 0
split-by = "location"
model = "resnet18"
weights = "w.pth"
random-weights = false
head = "fit"
fine-tune = true
unlabelled = "frames"
blank-recall = 60
input-size = "auto"
speedup = 2
latency-ms = 20
max-drop = 1
allocation = "latency"
search = "evopress"
search-evaluations = 50
widths = "widths.json"
latency-table = "table.json"
feedback = "runs/back"
macs = 0.25
max-bytes = 4e6
max-macs = 2e8
max-memory = 8e6
sparsity = 0.9
pattern = "4-block"
include = "blocks.*"
exclude = ["*.conv_dw", "*.se.*"]
solver = "fastobc"
damping = 1
sequential = false
calibration = "agnostic"
agnostic-images = "other"
executor = "local:4"
compute = "cuda:1"
recover_minutes = 1.5
threads = 3
gate-drop = 2
gate-class-drop = 5.5
force = true
bake-preprocessing = true
runtime-device = "NPU"
device = "ssh://pi@trap1"
seed = 7
sure = 90
from = "runs/old"
take-over = 10
"""


def test_any_flag_may_stand_in_the_file_and_paths_start_at_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    found = read_config(write(folder / "taco.toml", ALL)).values
    assert set(found) == set(ExportOptions.model_fields)
    assert found["task"] == folder / "photos"
    assert found["evaluation"] == folder / "../val"
    assert found["out"] == Path("/runs/a")
    assert found["images"] == folder
    assert found["agnostic_images"] == folder / "other"
    assert found["unlabelled"] == folder / "frames"
    assert (found["latency_table"], found["feedback"]) == (folder / "table.json", folder / "runs/back")
    assert (found["include"], found["exclude"]) == (("blocks.*",), ("*.conv_dw", "*.se.*"))
    assert found["from_run"] == folder / "runs/old"
    assert found["classes"] == ("fox", "hare, brown")
    assert (found["speedup"], found["min_confidence"], found["max_images"]) == (2.0, 0.5, 0)
    assert isinstance(found["speedup"], float)
    assert (found["crop"], found["split_by"], found["recover_minutes"]) == (False, "location", 1.5)


def test_a_home_folder_and_a_comma_list_are_read_as_a_shell_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    found = read_config(write(tmp_path / "t.toml", 'task = "~/photos"\nclasses = "fox, hare,fox,"')).values
    assert found == {"task": Path("/home/ada/photos"), "classes": ("fox", "hare")}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_line_ends_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    text = '# Füchse\r\ntask = "füchse/"\r\nshots = 5\r\n'
    assert read_config(write(tmp_path / "t.toml", text.encode(encoding))).values["task"] == tmp_path / "füchse"


@dataclasses.dataclass(frozen=True)
class Refused:
    name: str
    content: str | bytes
    said: str


REFUSED = (
    Refused("unknown", "speed-up = 2", r"no setting 'speed-up'\. Did you mean 'speedup'"),
    Refused("field name", 'evaluation = "val"', r"no setting 'evaluation'\. Did you mean 'eval'"),
    Refused("foreign", "zzzz = 2", r"no setting 'zzzz'\. It has agnostic-images, allocation, bake-preprocessing"),
    Refused("talk", "quiet = true", "quiet cannot be set in a file. Give --quiet"),
    Refused("talk, underscore", "dry_run = true", "dry_run cannot be set in a file. Give --dry-run"),
    Refused("twice", "max-images = 2\nmax_images = 3", "max-images is said twice"),
    Refused("table", "[tool.taco]\nspeedup = 2", r"has a table \[tool\].*above every \[table\]"),
    Refused("tables", "[[runs]]\nspeedup = 2", r"has a table \[runs\]"),
    Refused("text for whole", 'shots = "16"', "shots must be a whole number, such as 16. It is '16'"),
    Refused("float for whole", "seed = 1.0", r"seed must be a whole number, such as 16\. It is 1\.0"),
    Refused("bool for whole", "shots = true", "shots must be a whole number, such as 16. It is true"),
    Refused("bool for number", "macs = true", "macs must be a number"),
    Refused("huge number", f"macs = {'9' * 400}", "macs must be a number"),
    Refused("endless number", f"seed = {'9' * 5000}", "integer string conversion"),
    Refused("number for bool", "crop = 0", "crop must be true or false. It is 0"),
    Refused("number for path", "weights = 3", "weights must be a path in quotes"),
    Refused("empty path", 'task = " "', "task must be a path in quotes"),
    Refused("nul", 'task = "a\\u0000b"', "task must be a path in quotes"),
    Refused("numbers for names", "classes = [1, 2]", "classes must be names"),
    Refused("choice", 'split-by = "camera"', "split-by must be one of 'auto', 'location', 'sequence', 'image'"),
    Refused("unhashable choice", 'head = ["fit"]', "head must be one of 'auto'"),
    Refused("no quotes", "shots = 5\ntask = photos", r"taco\.toml line 2, column 8: Invalid value"),
    Refused("unfinished", 'shots = 5\nclasses = ["fox",', r"taco\.toml line 2"),
    Refused("windows path", 'task = "C:\\photos"', "line 1, column .*in paths as /"),
    Refused("defined twice", "shots = 5\nshots = 6", "line 2: Cannot overwrite"),
    Refused("latin-1", 'seed = 1\ntask = "f\xfcchse"'.encode("latin-1"), "line 2 is not UTF-8 text. Save the file"),
    Refused("utf-16 without mark", "seed = 1".encode("utf-16-le"), "line 1, column 2"),
    Refused("deep", "a = " + "[" * 100_000, "nested too deeply"),
    Refused("large", b"#" * 1_100_000, "too large for a settings file"),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_cannot_be_is_refused_with_file_and_place(tmp_path: Path, case: Refused) -> None:
    path = write(tmp_path / "taco.toml", case.content)
    with pytest.raises(InputError, match=f"(?s){case.said}") as caught:
        read_config(path)
    assert str(path) in caught.value.what
    assert caught.value.todo


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()], ids=["absent", "folder"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "mine.toml"
    make(path)
    with pytest.raises(InputError, match=r"mine\.toml cannot be read"):
        read_config(path)


# Where it is looked for -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Place:
    """Settings files by their path (each names its own seed), what is typed, and the seed that must come out."""

    name: str
    files: dict[str, str]
    typed: dict[str, object]
    seed: int | None
    config: str | None = None
    note: str = ""


PLACES = (
    Place("inside", {"photos/taco.toml": "seed = 1", "taco.toml": "seed = 2"}, {"task": "photos"}, 1),
    Place("beside a folder", {"taco.toml": "seed = 2"}, {"task": "photos"}, 2),
    Place("beside a table", {"site/taco.toml": "seed = 3"}, {"task": "site/rows.csv"}, 3),
    Place("beside, of this task", {"taco.toml": 'seed = 2\ntask = "./photos/"'}, {"task": "photos"}, 2),
    Place("beside, of another task", {"taco.toml": 'seed = 2\ntask = "x"'}, {"task": "photos"}, None, note="not used"),
    Place("not further away", {"taco.toml": "seed = 2"}, {"task": "site/rows"}, None),
    Place("here as the task", {"taco.toml": "seed = 4"}, {"task": "."}, 4),
    Place("without a task", {"taco.toml": 'seed = 5\ntask = "photos"'}, {}, 5),
    Place("named", {"photos/taco.toml": "seed = 1", "b.toml": "seed = 6"}, {"task": "photos"}, 6, config="b.toml"),
    Place("named, of another task", {"b.toml": 'seed = 6\ntask = "x"'}, {"task": "photos"}, 6, config="b.toml"),
    Place("a class of that name", {"photos/taco.toml/1.txt": "seed = 1"}, {"task": "photos"}, None),
    Place("typed wins", {"taco.toml": "seed = 2"}, {"task": "photos", "seed": 9}, 9),
    Place("typed default wins", {"taco.toml": "seed = 2"}, {"task": "photos", "seed": 0}, 0),
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_the_nearest_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path, content in place.files.items():
        write(tmp_path / path, content)
    request = make_request(place.typed, Path(place.config) if place.config else None)
    assert request.values.get("seed") == place.seed
    assert str(request.values["task"]).endswith(str(place.typed.get("task", "photos")))
    assert (request.config is not None) == (place.seed is not None)
    said = place.note or ("settings from" if request.config else "")
    assert [said in note for note in request.notes] == ([True] if said else [])


@pytest.mark.parametrize(
    ("content", "said"), [(None, "for example: taco-export photos/"), ("seed = 1", 'task = "photos/"')]
)
def test_a_request_without_a_task_gives_an_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write(tmp_path / "taco.toml", content)
    with pytest.raises(InputError, match=said):
        make_request({}).check_task()


def test_a_settings_file_given_as_pictures_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "my.toml", "seed = 1")
    with pytest.raises(InputError, match="--config"):
        make_request({"task": path})


# What wins ------------------------------------------------------------------------------------------------------------

STORED = {
    "task": "/photos",
    "target": "host-cpu",
    "out": "/runs/a",
    "from_run": "/runs/older",
    "speedup": 1.5,
    "macs": None,
    "shots": 5,
    "boxes": "/md.json",
    "weights": "/w.pth",
    "no_longer": 1,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("taco.commands.request.stored_request", lambda run: STORED | {"from": str(run)})
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "taco.toml", "seed = 3\nshots = 7")
    return tmp_path / "a"


def test_an_earlier_run_gives_everything_but_its_folder(run: Path) -> None:
    request = make_request({"from_run": run, "target": "raspberry-pi-5", "macs": 0.5})
    assert request.config is None
    assert request.values == {
        "task": "/photos",
        "target": "raspberry-pi-5",
        "out": Path("runs/raspberry-pi-5"),
        "from_run": run,
        "macs": 0.5,
        "shots": 5,
        "boxes": "/md.json",
        "weights": "/w.pth",
    }
    assert make_options(dict(request.values)).shots == 5


def test_a_speedup_that_cannot_be_measured_for_the_new_target_is_replaced_and_told(run: Path) -> None:
    request = make_request({"from_run": run, "target": "jetson-orin"})
    assert "speedup" not in request.values
    assert [note for note in request.notes if "--speedup 1.5" in note]
    kept = make_request({"from_run": run, "target": "jetson-orin", "speedup": 2.0})
    assert kept.values["speedup"] == 2.0, "what is typed now is for the pipeline to refuse"
    assert make_request({"from_run": run}).values["speedup"] == 1.5


def test_flags_win_over_the_file_and_the_file_over_the_earlier_run(run: Path) -> None:
    values = make_request({"from_run": run, "seed": 4}, Path("taco.toml")).values
    assert (values["seed"], values["shots"], values["speedup"]) == (4, 7, 1.5)
    write(Path("taco.toml"), 'from = "a"\nshots = 7')
    by_file = make_request({}).values
    assert (by_file["task"], by_file["shots"], by_file["from_run"]) == ("/photos", 7, Path("a").absolute())


@pytest.mark.parametrize(
    ("below", "above", "gone"),
    [
        ("speedup = 2.0", {"macs": 0.5}, "speedup"),
        ("macs = 0.5", {"speedup": 2.0}, "macs"),
        ('weights = "w.pth"', {"random_weights": True}, "weights"),
        ("random-weights = true", {"weights": "w.pth"}, "random_weights"),
        ('boxes = "md.json"', {"crop": False}, "boxes"),
        ("crop = false", {"boxes": "md.json"}, "crop"),
        ("crop = true", {"boxes": "md.json"}, None),
        ('boxes = "md.json"', {"crop": True}, None),
        ("random-weights = false", {"weights": "w.pth"}, None),
    ],
)
def test_a_flag_removes_what_it_excludes_from_the_file(
    tmp_path: Path, below: str, above: dict[str, object], gone: str | None
) -> None:
    path = write(tmp_path / "taco.toml", below)
    values = make_request({"task": "photos", **above}, path).values
    (field,) = read_config(path).values
    assert (field in values) == (gone is None)
    assert make_options(dict(values))


# Dumping --------------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
names = text.filter(str.strip)
paths = names.map(lambda name: Path("/", name)) | names.map(Path)
finite = st.floats(0, 1e300, exclude_min=True)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "task": paths,
    "target": names,
    "out": paths,
    "model": names,
    "weights": st.none() | paths,
    "random_weights": st.booleans(),
    "classes": st.none() | st.lists(text, min_size=1).map(tuple),
    "class_map": st.none() | st.just(Path(__file__)),
    "head": st.sampled_from(get_args(ExportOptions.model_fields["head"].annotation)),
    "shots": st.integers(2, 10**6),
    "images": st.none() | paths,
    "boxes": st.none() | paths,
    "crop": st.sampled_from([None, True, False]),
    "min_confidence": st.floats(0, 1),
    "max_images": st.just(0) | st.integers(10**6, 10**30),
    "split_by": st.sampled_from(get_args(SplitBy)),
    "evaluation": st.none() | paths,
    "speedup": st.none() | finite,
    "macs": st.none() | st.floats(0, 1, exclude_min=True),
    "recover_minutes": finite,
    "threads": st.none() | st.integers(1, 10**30),
    "seed": st.integers(0, 2**32 - 1),
    "sure": st.floats(0, 100, exclude_min=True),
    "from_run": st.none() | paths,
}


#: What an earlier run said of flags that always have a value: none of it may come back through a dumped file.
OTHERWISE = {"target": "intel-nuc", "shots": 99, "seed": 5, "split_by": "image", "sure": 1.0, "random_weights": True}


def valid(values: dict[str, Any]) -> bool:
    exclude = values["speedup"] is not None and values["macs"] is not None
    weights = values["weights"] is not None and values["random_weights"]
    return not (exclude or weights or (values["boxes"] is not None and values["crop"] is False))


def in_full(options: ExportOptions) -> dict[str, object]:
    dumped = {**options.model_dump(), "out": options.out.absolute()}
    return {
        field: Path(json.loads(json.dumps(str(value.absolute())))) if isinstance(value, Path) else value
        for field, value in dumped.items()
    }


@given(values=st.fixed_dictionaries(VALUES).filter(valid))
def test_a_dumped_file_gives_the_same_options(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    options = make_options(values)
    path = write(tmp_path_factory.mktemp("dump") / "taco.toml", dump_config(options.model_dump(), FLAGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taco.commands.request.stored_request", lambda run: OTHERWISE)
        again = make_options(dict(make_request({}, path).values))
    assert in_full(again) == in_full(options)


def dumped(**changes: object) -> str:
    values = make_options({"task": "photos", "target": "host-cpu", "out": "runs/host-cpu", **changes}).model_dump()
    return dump_config(values if "task" in changes else values | {"task": None}, FLAGS)


def test_a_way_back_through_a_link_is_dumped_as_it_was_given() -> None:
    assert 'task = "/cards/link/../photos"' in dumped(task=Path("/cards/link/../photos"))


def test_every_line_of_a_dumped_file_can_be_switched_on(tmp_path: Path) -> None:
    text = dumped()
    assert tomllib.loads(text) == {}
    off = [line[1:] for line in text.splitlines() if line.startswith("#") and not line.startswith("# ")]
    fields = [field for line in off for field in read_config(write(tmp_path / "one.toml", line)).values]
    assert fields == list(ExportOptions.model_fields)


def test_a_dumped_file_shows_help_and_what_was_changed() -> None:
    text = dumped(task="photos", shots=5)
    assert "\n\n# What shots does.\nshots = 5\n" in text
    assert "\n\n# What seed does.\n#seed = 0\n" in text
    assert f'\ntask = "{Path("photos").absolute()}"\n' in text


def test_a_path_that_is_no_text_cannot_be_dumped() -> None:
    with pytest.raises(InputError, match=r"--boxes .*UTF-8"):
        dumped(boxes="/a\udcff.json")


def test_every_flag_without_a_value_has_an_example() -> None:
    unset = {field for field, info in ExportOptions.model_fields.items() if info.default is None} | {"task"}
    assert set(config._EXAMPLES) == unset


def test_a_size_of_pictures_gives_way_to_what_excludes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes compete for --max-drop alone, and a table from elsewhere knows one size."""

    def stored(size: object, budget: dict[str, object]) -> None:
        own = {"task": "/photos", "target": "host-cpu", "input_size": size, "allocation": "latency", **budget}
        monkeypatch.setattr("taco.commands.request.stored_request", lambda _run: own)

    stored("auto", {"max_drop": 1.0})
    assert make_request({"from_run": "runs/a"}).values["input_size"] == "auto"
    assert "input_size" not in make_request({"from_run": "runs/a", "speedup": 2.0}).values
    stored(96, {"speedup": 2.0})
    assert make_request({"from_run": "runs/a", "speedup": 3.0}).values["input_size"] == 96
    assert "input_size" not in make_request({"from_run": "runs/a", "latency_table": "t.json"}).values
