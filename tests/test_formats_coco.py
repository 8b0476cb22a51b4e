"""COCO and COCO Camera Traps: what is read of it, in any order of its sections, and what is refused."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from taco.device.images import read_rgb
from taco.errors import TaskError
from taco.formats.headers import upright_size
from taco.pictures.listing import Box, LabelledPicture, Listing, Skipped
from taco.task import ListOptions, list_pictures

Content = dict[str, Any]


def database() -> Content:
    """A fox with a box, a hare without size, an empty frame, two foxes, and a category that nothing uses."""
    return {
        "info": {"version": "1"},
        "images": [
            {
                "id": 1,
                "file_name": "cam/1.jpg",
                "width": 200,
                "height": 100,
                "location": 7,
                "seq_id": "s1",
                "datetime": "2020-05-30 04:57:37",
            },
            {"id": 2, "file_name": "cam/2.jpg", "location": "hill", "seq_id": None, "datetime": "2020:05:30 04:57:37"},
            {"id": 3, "file_name": "cam/3.jpg"},
            {"id": 4, "file_name": "cam/4.jpg", "width": 100, "height": 100},
        ],
        "annotations": [
            {"id": "a1", "image_id": 1, "category_id": 10, "bbox": [20, 10, 100, 50]},
            {"id": "a2", "image_id": 2, "category_id": 11, "bbox": [10, 20, 10, 10]},
            {"id": "a3", "image_id": 3, "category_id": 0},
            {"id": "a4", "image_id": 4, "category_id": 10, "bbox": [0, 0, 50, 50]},
            {"id": "a5", "image_id": 4, "category_id": 10, "bbox": [50, 50, 50, 50]},
        ],
        "categories": [
            *({"id": 0, "name": "empty"}, {"id": 10, "name": "fox"}, {"id": 11, "name": "hare"}),
            {"id": 12, "name": "owl"},
        ],
    }


def written(folder: Path, content: object) -> Path:
    (folder / "cam").mkdir(exist_ok=True)
    for number in range(1, 5):
        (folder / f"cam/{number}.jpg").touch()
    turned = Image.new("RGB", (100, 40))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn: upright it is 40 wide and 100 high
    turned.save(folder / "cam/2.jpg", exif=exif)
    (folder / "lila.json").write_text(json.dumps(content))
    return folder / "lila.json"


def listed(folder: Path, content: Content, **options: Any) -> Listing:
    return list_pictures(written(folder, content), ListOptions(**options))


TAKEN = 1590814657.0


def test_everything_that_is_used_is_read(tmp_path: Path) -> None:
    listing = listed(tmp_path, database())
    cam = tmp_path / "cam"
    assert listing.name == "lila"
    assert listing.classes == ("blank", "fox", "hare")
    assert listing.pictures == (
        LabelledPicture(cam / "3.jpg", 0),
        LabelledPicture(cam / "1.jpg", 1, Box(0.1, 0.1, 0.5, 0.5), "7", "s1", TAKEN),
        LabelledPicture(cam / "4.jpg", 1, Box(0, 0, 0.5, 0.5)),
        LabelledPicture(cam / "4.jpg", 1, Box(0.5, 0.5, 0.5, 0.5)),
        LabelledPicture(cam / "2.jpg", 2, Box(0.25, 0.2, 0.25, 0.1), "hill", None, TAKEN),  # by its upright size
    )
    assert listing.warnings == ()
    assert listing.skipped == ()


@pytest.mark.parametrize(("suffix", "how"), [("jpg", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_that_of_the_picture_as_it_is_read(
    suffix: str, how: dict[str, str], orientation: int, tmp_path: Path
) -> None:
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(path, exif=exif, **how)
    assert read_rgb(path).size == ((20, 40) if orientation >= 5 else (40, 20))
    assert upright_size(path) == read_rgb(path).size


@pytest.mark.parametrize("order", [("annotations", "categories", "images"), ("categories", "images", "annotations")])
def test_sections_may_come_in_any_order(order: tuple[str, ...], tmp_path: Path) -> None:
    content = database()
    assert listed(tmp_path, {name: content[name] for name in order}).pictures == listed(tmp_path, content).pictures


def test_ids_may_be_texts_numbers_or_whole_floats(tmp_path: Path) -> None:
    content = database()
    expected = listed(tmp_path, content).pictures
    for image in content["images"]:
        image["id"] = str(image["id"])
    for annotation in content["annotations"]:
        annotation["category_id"] = float(annotation["category_id"])
    assert listed(tmp_path, content).pictures == expected


def test_several_species_need_boxes(tmp_path: Path) -> None:
    content = database()
    content["annotations"].append({"id": "a6", "image_id": 1, "category_id": 11, "bbox": [0, 0, 20, 10]})
    content["annotations"].append({"id": "a7", "image_id": 3, "category_id": 11})
    both = listed(tmp_path, content)
    assert {(p.path.name, both.classes[p.label_index]) for p in both.pictures} == {
        *(("1.jpg", "fox"), ("1.jpg", "hare"), ("2.jpg", "hare"), ("4.jpg", "fox")),
    }
    assert both.skipped == (Skipped(tmp_path / "cam/3.jpg", "2 species and no boxes: blank, hare"),)
    assert both.warnings == ("no picture of these classes can be used, so they are left out: blank",)
    whole = listed(tmp_path, content, crop=False)
    assert [(p.path.name, p.box) for p in whole.pictures] == [("4.jpg", None), ("2.jpg", None)]
    assert Skipped(tmp_path / "cam/1.jpg", "2 species in one frame: fox, hare") in whole.skipped


def test_unlabelled_and_damaged_pictures_are_told(tmp_path: Path) -> None:
    content = database()
    content["images"] += [
        *({"id": 5, "file_name": "cam/5.jpg"}, {"id": 6, "file_name": "cam/6.jpg", "corrupt": True}),
        *({"id": 7, "file_name": "cam/7.mp4"}, {"id": 8, "file_name": "cam/8.jpg"}),
    ]
    content["annotations"].append({"image_id": 8, "category_id": 11, "bbox": [1, 2, 3, 4]})
    listing = listed(tmp_path, content)
    assert listing.warnings == ("1 pictures have no annotation and are not used",)
    assert [(s.path.name, s.reason) for s in listing.skipped] == [
        ("6.jpg", "it is marked as damaged"),
        ("7.mp4", "it is a video"),
        ("8.jpg", "its size is neither in lila.json nor readable, so its box in pixels says nothing"),
    ]


def test_boxes_are_cut_at_the_edge_and_counted(tmp_path: Path) -> None:
    content = database()
    content["annotations"][0]["bbox"] = [-20, 50, 120, 100]
    content["annotations"][3]["bbox"] = [10, 10, 0, 5]
    listing = listed(tmp_path, content)
    assert listing.pictures[1].box == Box(0, 0.5, 0.5, 0.5)
    assert listing.warnings[:2] == (
        "1 boxes reach out of their picture and are cut at its edge",
        "1 boxes without area, or outside of their picture, are not used",
    )


def test_a_category_without_pictures_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="has no picture of class 'owl'"):
        listed(tmp_path, database(), classes=["fox", "owl"])


def test_lila_sample(real_pictures: Path) -> None:
    folder = real_pictures / "camera_traps/zamba_assets/ena24_small"
    content = json.loads((folder / "coco_annotations.json").read_text())
    listing = list_pictures(folder / "coco_annotations.json")
    size = {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}
    name = {image["id"]: image["file_name"] for image in content["images"]}
    label = {category["id"]: category["name"] for category in content["categories"]}
    expected = {(name[a["image_id"]], label[a["category_id"]], tuple(a["bbox"])) for a in content["annotations"]}
    assert len(listing.pictures) == len(expected) == 21
    for picture in listing.pictures:
        assert picture.box is not None
        sides = size[picture.path.name] * 2
        pixels = tuple(round(part * side) for part, side in zip(picture.box, sides, strict=True))
        assert (picture.path.name, listing.classes[picture.label_index], pixels) in expected


# --- what is refused -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    id: str
    section: str
    change: Content
    says: str
    drop: tuple[str, ...] = field(default=())


@pytest.mark.parametrize(
    "case",
    [
        Bad("no image id", "images", {}, "entry 1 of 'images' has no id", ("id",)),
        Bad("null image id", "images", {"id": None}, "entry 1 of 'images' has no id"),
        Bad("image id a list", "images", {"id": [1]}, r"entry 1 of 'images' has '\[1\]' as id"),
        Bad("image id true", "images", {"id": True}, "has 'True' as id"),
        Bad("image id twice", "images", {"id": 2}, "entry 2 of 'images': the id '2' comes twice"),
        Bad("no file name", "images", {}, "entry 1 of 'images' names no file", ("file_name",)),
        Bad("file name a number", "images", {"file_name": 7}, "entry 1 of 'images' has '[0-9]+' as the name of a file"),
        Bad("nul", "images", {"file_name": "a\0.jpg"}, "cannot be the name of a file"),
        Bad("width zero", "images", {"width": 0}, "width and height are 0 and 100"),
        Bad("width a text", "images", {"width": "200"}, "width and height are '200' and 100"),
        Bad("location a list", "images", {"location": []}, "location is neither a text nor a number"),
        Bad("annotation id twice", "annotations", {"id": "a2"}, "entry 2 of 'annotations': the id 'a2' comes twice"),
        Bad("no image_id", "annotations", {}, "entry 1 of 'annotations' has no image_id", ("image_id",)),
        Bad("no category_id", "annotations", {}, "has no category_id", ("category_id",)),
        Bad("unknown image", "annotations", {"image_id": 99}, "name 1 image ids that 'images' does not list.* '99'"),
        Bad("unknown category", "annotations", {"category_id": 99}, "name 1 category ids .*'categories'.* '99'"),
        Bad("three numbers", "annotations", {"bbox": [1, 2, 3]}, r"of '1\.jpg': the box is \[1, 2, 3\]"),
        Bad("texts", "annotations", {"bbox": ["1", 2, 3, 4]}, "four finite numbers"),
        Bad("an object", "annotations", {"bbox": {"x": 1}}, "the box is not a list"),
        Bad("negative size", "annotations", {"bbox": [1, 2, -3, 4]}, "has a negative size"),
        Bad("no name", "categories", {}, "entry 1 of 'categories' has no name", ("name",)),
        Bad("name a number", "categories", {"name": 3}, "entry 1 of 'categories' has '3' as name"),
        Bad("category id twice", "categories", {"id": 10}, "entry 2 of 'categories': the id '10' comes twice"),
        Bad("unprintable name", "categories", {"name": "a\nb"}, "is not printable text"),
    ],
    ids=lambda c: c.id,
)
def test_bad_entries_are_named(case: Bad, tmp_path: Path) -> None:
    content = database()
    entry = content[case.section][0]
    entry.update(case.change)
    for name in case.drop:
        del entry[name]
    with pytest.raises(TaskError, match=case.says) as caught:
        listed(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["images", "categories"])
def test_missing_sections_are_named(section: str, tmp_path: Path) -> None:
    content = database()
    del content[section]
    with pytest.raises(TaskError, match=f"holds no {section}"):
        listed(tmp_path, content)


def test_no_labels_at_all_says_so(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"has no picture with a label\. 4 pictures have no annotation"):
        listed(tmp_path, {**database(), "annotations": []})
    with pytest.raises(TaskError, match="lists no picture"):
        listed(tmp_path, {**database(), "images": [], "annotations": []})


# --- anything at all -----------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([0, 10, "a1", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every way into a value, but for the empty one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in ((*before, key), *places(part, (*before, key)))]


@given(st.data())
def test_no_mutation_raises_anything_but_a_task_error(data: st.DataObject) -> None:
    content = copy.deepcopy(database())
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(content)))
        holder: Any = content
        for key in way:
            holder = holder[key]
        match data.draw(st.sampled_from(["replace", "drop", "double"])):
            case "replace":
                holder[last] = data.draw(anything)
            case "drop":
                del holder[last]
            case _ if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
        if not places(content):
            break
    text = json.dumps(content)
    cut = data.draw(st.none() | st.integers(0, len(text)))
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder), {})
        file.write_text(text[:cut])
        crop = data.draw(st.sampled_from([None, True, False]))
        try:
            listing = list_pictures(file, ListOptions(crop=crop))
        except TaskError as error:
            assert "\n" not in str(error)  # noqa: PT017 - which of the two happens depends on the mutation
        else:
            assert {p.label_index for p in listing.pictures} == set(range(len(listing.classes)))
            assert all(0 <= part <= 1 for p in listing.pictures if p.box for part in p.box)
