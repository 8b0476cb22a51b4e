"""MegaDetector's output: what it says of a picture, and which of its entries a picture is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taco.errors import TaskError
from taco.formats.megadetector import Detection, read_boxes
from taco.pictures.listing import Box

BOX = [0.1, 0.2, 0.3, 0.4]


def written(folder: Path, *files: str, **top: Any) -> Path:
    """An output whose entries have one animal each; the confidence tells them apart: 0.01, 0.02, ..."""
    images = [
        {"file": file, "detections": [{"category": "1", "conf": number / 100, "bbox": BOX}]}
        for number, file in enumerate(files, 1)
    ]
    content = {"images": images, "info": {"format_version": "1.4"}, "detection_categories": {"1": "animal"}, **top}
    (folder / "md.json").write_text(json.dumps(content))
    return folder / "md.json"


@dataclass(frozen=True)
class Match:
    """Which entry a picture is: by its number, None for none."""

    id: str
    files: tuple[str, ...]
    picture: str
    entry: int | None
    ambiguous: bool = False
    roots: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "case",
    [
        Match("beside the file", ("a/1.jpg", "1.jpg"), "ROOT/1.jpg", 2),
        Match("below the file", ("1.jpg", "a/1.jpg"), "ROOT/a/1.jpg", 2),
        Match("above the file", ("../x/1.jpg", "y/1.jpg"), "ROOT/../x/1.jpg", 1),
        Match("absolute", ("/data/a/1.jpg", "/data/b/1.jpg"), "/data/b/1.jpg", 2),
        Match("below a root", ("a/1.jpg", "b/1.jpg"), "/data/b/1.jpg", 2, roots=("/data",)),
        Match("from Windows", ("C:\\data\\a\\1.jpg", "C:\\data\\b\\1.jpg"), "/disk/data/b/1.jpg", 2),
        Match("longest tail", ("x/a/1.jpg", "x/b/1.jpg"), "/disk/b/1.jpg", 2),
        Match("only name", ("x/a/1.jpg", "x/b/2.jpg"), "/disk/fox/2.jpg", 2),
        Match("ambiguous name", ("x/a/1.jpg", "x/b/1.jpg"), "/disk/fox/1.jpg", None, ambiguous=True),
        Match("another name", ("x/a/1.jpg",), "/disk/fox/11.jpg", None),
        Match("dots", ("./a/../1.jpg",), "ROOT/1.jpg", 1),
    ],
    ids=lambda c: c.id,
)
def test_pictures_are_found_by_path(case: Match, tmp_path: Path) -> None:
    output = read_boxes(written(tmp_path, *case.files), [Path(root) for root in case.roots])
    picture = Path(case.picture.replace("ROOT", str(tmp_path)))
    found = output.detections(picture)
    assert (None if found is None else round(found[0].confidence * 100)) == case.entry
    assert output.ambiguous(picture) == case.ambiguous


def test_links_to_the_folder_do_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    output = read_boxes(written(tmp_path / "real", "a/1.jpg", "b/1.jpg"))
    found = output.detections(tmp_path / "link/b/1.jpg")
    assert found is not None
    assert found[0].confidence == 0.02


def test_names_alone_are_contested(tmp_path: Path) -> None:
    file = written(tmp_path, "a/1.jpg", "x/2.jpg", "x/3.jpg")
    output = read_boxes(file)
    at, named, two, two_too, three = (tmp_path / name for name in ("a/1.jpg", "b/1.jpg", "2.jpg", "c/2.jpg", "3.jpg"))
    assert output.contested([at, named]) == {named}
    assert output.contested([at, two, three]) == frozenset()
    assert output.contested([two, two_too, three]) == {two, two_too}
    two.touch()
    two_too.parent.mkdir()
    two_too.symlink_to(two)
    assert read_boxes(file).contested([two, two_too]) == frozenset(), "one picture under two names"


def test_detections_come_surest_first_with_their_names(tmp_path: Path) -> None:
    seen = [
        {"category": "1", "conf": 0.3, "bbox": BOX, "classifications": [["3", 0.9]]},
        {"category": 2, "conf": 0.9, "bbox": [0, 0, 1, 1.004]},
        {"category": "9", "conf": 1, "bbox": [0.5, 0.5, 0.5, 0.5]},
    ]
    images = [
        *({"file": "a.jpg", "detections": seen}, {"file": "b.jpg", "detections": []}),
        *({"file": "c.jpg", "failure": "Failure image access"}, {"file": "d.jpg", "detections": None}),
        {"file": "e.jpg", "failure": None, "detections": seen[:1]},
    ]
    names = {"1": "Animal", "2": "person"}
    output = read_boxes(written(tmp_path, images=images, detection_categories=names))
    assert output.detections(tmp_path / "a.jpg") == (
        Detection("9", 1.0, Box(0.5, 0.5, 0.5, 0.5)),
        Detection("person", 0.9, Box(0, 0, 1, 1)),
        Detection("animal", 0.3, Box(0.1, 0.2, 0.3, 0.4)),
    )
    assert output.detections(tmp_path / "b.jpg") == ()
    assert output.detections(tmp_path / "c.jpg") is None
    assert [output.failure(tmp_path / f"{name}.jpg") for name in "abcde"] == [
        *(None, None, "Failure image access"),
        *("the detector gave no detections", None),
    ]
    assert output.warnings == ()


def test_category_one_is_an_animal_where_the_file_does_not_say(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jpg")
    content = json.loads(file.read_text())
    del content["detection_categories"]
    file.write_text(json.dumps(content))
    found = read_boxes(file).detections(tmp_path / "a.jpg")
    assert found is not None
    assert found[0].category == "animal"


def one(**fields: Any) -> list[dict[str, Any]]:
    return [{"file": "a.jpg", "detections": [{"category": "1", "conf": 0.5, "bbox": BOX, **fields}]}]


@dataclass(frozen=True)
class Bad:
    id: str
    images: object
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Bad("none", [], "lists no picture"),
        Bad("an object", {"a.jpg": []}, "'images' is not a list"),
        Bad("no file", [{"detections": []}], "entry 1 of 'images' names no file"),
        Bad("COCO", [{"id": 1, "file_name": "a.jpg"}], "names no file. Give the JSON that MegaDetector writes"),
        Bad("twice", [{"file": "a.jpg"}, {"file": "./a.jpg"}], "entry 2 of 'images': './a.jpg' is listed twice"),
        Bad("detections an object", [{"file": "a.jpg", "detections": {}}], "detections is not a list"),
        Bad("detection a number", [{"file": "a.jpg", "detections": [1]}], "detection 1 is not an object"),
        Bad("no category", one(category=None), "detection 1 has no category"),
        Bad("no confidence", one(conf=None), "detection 1: conf is None"),
        Bad("percent", one(conf=50), "detection 1: conf is 50"),
        Bad("no box", one(bbox=None), "detection 1: the box is not a list"),
        Bad("three numbers", one(bbox=BOX[:3]), "detection 1: the box is "),
        Bad("pixels", one(bbox=[100, 100, 50, 50]), "is not in fractions"),
        Bad("negative", one(bbox=[0.1, 0.1, -0.2, 0.2]), "has a negative size"),
    ],
    ids=lambda c: c.id,
)
def test_bad_entries_are_named(case: Bad, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=case.says) as caught:
        read_boxes(written(tmp_path, images=case.images))
    assert "\n" not in str(caught.value)


def test_absent_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no\.json does not exist"):
        read_boxes(tmp_path / "no.json")


def test_real_outputs(real_pictures: Path) -> None:
    assets = real_pictures / "camera_traps/zamba_assets"
    output = read_boxes(assets / "ena24_small/md_annotations.json")
    for picture in sorted((assets / "ena24_small").glob("*.jpg")):
        found = output.detections(picture)
        assert found is not None
        assert found[0].category == "animal"
    other = read_boxes(assets / "megadetector_output.json")
    assert other.failure(Path("/path/to/corrupted_image_2.jpg")) == "Failure image access"
    assert other.detections(Path("/path/to/empty_image.jpg")) == ()
