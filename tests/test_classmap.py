"""Class names and class-map files against timm's own tables of ImageNet."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import ImageNetInfo

from taco.errors import HeadError
from taco.specialist.classmap import map_classes

INFO = ImageNetInfo("imagenet-1k")
LION, ZEBRA, RED_FOX = 291, 340, 277


def from_file(folder: Path, content: str | bytes, classes: list[str], name: str = "map.json") -> dict[str, int | None]:
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(raw)
    return map_classes(classes, INFO, folder / name)


# --- by name ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("zebra", ZEBRA),
        ("Zebra", ZEBRA),
        ("red_fox", RED_FOX),
        ("Red-Fox", RED_FOX),
        ("  red   fox ", RED_FOX),
        ("Vulpes vulpes", RED_FOX),
        ("n02129165", LION),
        ("Panthera leo", LION),
        ("crane", None),  # a bird and a machine
        ("panda", None),  # two animals carry this name
        ("alces-alces", None),
        ("", None),
        ("fox", None),
    ],
)
def test_names(name: str, row: int | None) -> None:
    assert map_classes([name], INFO) == {name: row}


def test_rows_come_in_the_order_of_the_classes() -> None:
    assert list(map_classes(["zebra", "lion", "moose"], INFO).items()) == [
        ("zebra", ZEBRA),
        ("lion", LION),
        ("moose", None),
    ]


@settings(deadline=None)
@given(st.integers(0, 999))
def test_every_row_is_found_by_its_synset(row: int) -> None:
    assert map_classes([INFO.index_to_label_name(row)], INFO) == {INFO.index_to_label_name(row): row}


def test_two_classes_on_one_row_are_refused() -> None:
    with pytest.raises(HeadError, match=r"lion, Panthera_leo are all mapped to row 291 \(lion, king of beasts"):
        map_classes(["lion", "zebra", "Panthera_leo"], INFO)


def test_classes_without_a_row_do_not_collide() -> None:
    assert map_classes(["moose", "okapi"], INFO) == {"moose": None, "okapi": None}


# --- from a file -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Format:
    name: str
    content: str | bytes
    file: str = "map.json"


FORMATS = (
    Format("JSON index", '{"a": 291, "b": 340}'),
    Format("JSON index as text", '{"a": "291", "b": " 340 "}'),
    Format("JSON synset", '{"a": "n02129165", "b": " n02391049"}'),
    Format("JSON entries", '{"a": {"imagenet_index": 291, "images": 3}, "b": {"synset": "n02391049"}}'),
    Format("JSON entries with index", '{"a": {"index": 291}, "b": {"index": "340", "imagenet_index": null}}'),
    Format("JSON with a byte-order mark", b'\xef\xbb\xbf{"a": 291, "b": 340}'),
    Format("JSON, further classes", '{"a": 291, "b": 340, "unused": "n02129165", "wrong but unused": -5}'),
    Format("JSON, loud suffix", '{"a": 291, "b": 340}', "MAP.JSON"),
    Format("CSV index", "class,index\na,291\nb,340\n", "map.csv"),
    Format("CSV synset, Windows", b"\xef\xbb\xbfClass , Synset\r\na,n02129165\r\nb , n02391049\r\n", "map.csv"),
    Format("CSV, further columns", "images,imagenet_index,class\n3,291,a\n4,340,b\n\n5\n", "map.csv"),
    Format("CSV, same line twice", "class,index\na,291\nb,340\na,291\n", "map.csv"),
)


@pytest.mark.parametrize("case", FORMATS, ids=lambda c: c.name)
def test_formats(tmp_path: Path, case: Format) -> None:
    assert from_file(tmp_path, case.content, ["b", "a"], case.file) == {"b": ZEBRA, "a": LION}


@pytest.mark.parametrize(
    ("content", "file"),
    [
        ("{}", "m.json"),
        ('{"zebra": null}', "m.json"),
        ('{"zebra": {"images": 3}}', "m.json"),
        ("class,index\nzebra,\n", "m.csv"),
    ],
)
def test_a_file_decides_alone(tmp_path: Path, content: str, file: str) -> None:
    # without the file "zebra" would be found by its name
    assert from_file(tmp_path, content, ["zebra"], file) == {"zebra": None}


def test_a_synset_goes_before_an_index_because_it_holds_for_every_label_set(tmp_path: Path) -> None:
    info = ImageNetInfo("imagenet-12k")
    file = tmp_path / "map.json"
    file.write_text('{"lion": {"imagenet_index": 291, "synset": "n02129165"}}')
    row = map_classes(["lion"], info, file)["lion"]
    assert row is not None
    assert row != LION
    assert "lion" in info.index_to_description(row)


@pytest.mark.parametrize("label", [1000, -1, "n99999999", "lion", 291.0, True, [291], "²", "", 10**30])
def test_a_label_that_is_no_row_is_named(tmp_path: Path, label: object) -> None:
    with pytest.raises(HeadError, match=r"'a' is mapped to .*, which is no row of this head.*from 0 to 999"):
        from_file(tmp_path, json.dumps({"a": label}), ["a"])


UNREADABLE = (
    Format("no JSON", "{a: 1}"),
    Format("JSON list", "[291]"),
    Format("empty JSON", ""),
    Format("deep JSON", "[" * 100_000),
    Format("UTF-16", '{"a": 291}'.encode("utf-16")),
    Format("empty CSV", "", "map.csv"),
    Format("CSV without header", "a,291\n", "map.csv"),
    Format("CSV without labels", "class,name\na,lion\n", "map.csv"),
    Format("CSV, two labels", "class,index\na,291\na,340\n", "map.csv"),
    Format("CSV, huge field", "class,index\na," + "2" * 200_000, "map.csv"),
)


@pytest.mark.parametrize("case", UNREADABLE, ids=lambda c: c.name)
def test_a_file_that_cannot_be_used_says_how_it_should_look(tmp_path: Path, case: Format) -> None:
    with pytest.raises(HeadError, match=r"cannot be read: .*Write JSON such as") as caught:
        from_file(tmp_path, case.content, ["a"], case.file)
    assert case.file in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for file in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(HeadError, match="cannot be read"):
            map_classes(["a"], INFO, file)


def test_two_classes_on_one_label_of_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="a, b are all mapped to row 291"):
        from_file(tmp_path, '{"a": 291, "b": "n02129165", "c": 340}', ["a", "b", "c"])


def test_the_real_map_of_the_animals(real_pictures: Path) -> None:
    file = real_pictures / "animals.json"
    entries = json.loads(file.read_text())
    rows = map_classes(list(entries)[:20], INFO, file)
    assert rows == {name: entries[name].get("imagenet_index") for name in list(entries)[:20]}
    assert None in rows.values()
