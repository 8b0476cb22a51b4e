"""JSON as a stream: what is asked for is kept, damage is one line, encodings do not matter."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import TaskError
from taco.formats.stream import entries, top_keys

WANTED: Mapping[str, frozenset[str] | None] = {"images": frozenset({"id", "parts"}), "names": None}


def read(file: Path) -> list[tuple[str, int, dict[str, object]]]:
    return [(entry.section, entry.number, dict(entry.fields)) for entry in entries(file, WANTED)]


scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "parts", "x"]), inner),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(["id", "parts", "x", "y"]), values, max_size=4)


@given(st.lists(objects, max_size=5), objects, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), values)
def test_the_wanted_fields_are_those_that_json_reads(
    images: list[dict[str, object]], names: object, encoding: str, other: object
) -> None:
    wanted = [("images", n, {k: v for k, v in i.items() if k in ("id", "parts")}) for n, i in enumerate(images, 1)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.json")
        for content in ({"x": other, "images": images, "names": names}, {"names": names, "images": images, "y": other}):
            file.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
            found = read(file)
            assert [entry for entry in found if entry[0] == "images"] == wanted
            assert [entry for entry in found if entry[0] == "names"] == [("names", 1, names)]
            assert list(top_keys(file)) == list(content)


def test_latin_1_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [{"id": "Lüchs"}]}', encoding="latin-1")
    assert read(tmp_path / "a.json") == [("images", 1, {"id": "Lüchs"})]


def test_what_is_not_asked_for_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    waste = json.dumps({"segmentation": [[float(n) for n in range(4000)]] * 8, "deep": {"er": ["x" * 100] * 500}})
    with file.open("w") as stream:
        stream.write('{"info": ' + waste + ', "images": [')
        stream.write(",".join(f'{{"id": {n}, "waste": {waste}}}' for n in range(60)))
        stream.write("]}")
    assert file.stat().st_size > 10_000_000
    list(entries(file, WANTED))  # once unmeasured: imports and caches
    tracemalloc.start()
    count = sum(1 for _ in entries(file, WANTED))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60
    assert peak < 4_000_000  # the chunk that is parsed, and the one by which the encoding is told


def test_only_what_is_needed_is_parsed_for_the_first_keys(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"first": 1, "second": [' + "1, " * 100_000 + "and then rubbish")
    keys = top_keys(tmp_path / "a.json")
    assert [next(keys), next(keys)] == ["first", "second"]
    with pytest.raises(TaskError, match="is not valid JSON"):
        next(keys)


@dataclass(frozen=True)
class Bad:
    id: str
    content: bytes
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Bad("empty", b"", "is empty"),
        Bad("spaces", b"  \n", "is cut short"),
        Bad("cut short", b'{"images": [{"id": 1}, {"id"', "is cut short: the JSON does not end"),
        Bad("JSON Lines", b'{"images": []}\n{"images": []}\n', "more than one JSON value. JSON Lines cannot be read"),
        Bad("rubbish", b'{"images": [{"id": rubbish}]}', "is not valid JSON: [^\n]*$"),
        Bad("NaN", b'{"images": [{"id": NaN}]}', "NaN or Infinity near .*NaN.*Write null where a figure is missing"),
        Bad("comma", b'{"images": [],}', r"invalid object key .* near .*\[\],\}"),
        Bad("utf-16 without its mark, cut", '{"images": ['.encode("utf-16-le"), "is cut short"),
        Bad("gzip", b"\x1f\x8b\x08\0 packed", "packed file or a spreadsheet, not a text. Unpack it"),
        Bad("a vast number", b'{"images": [{"id": 1' + b"0" * 400 + b"}]}", "is not valid JSON: [^\n]*$"),
        Bad("a number", b"12", "holds a single value at the top"),
        Bad("a list", b"[]", "holds a list at the top"),
        Bad("an object", b'{"images": {"1": {}}}', "'images' is not a list"),
        Bad("null", b'{"images": null}', "'images' is not a list"),
        Bad("a list of numbers", b'{"images": [{"id": 1}, 2]}', "entry 2 of 'images' is not an object"),
        Bad("a list of lists", b'{"images": [[]]}', "entry 1 of 'images' is not an object"),
        Bad("twice", b'{"images": [], "images": []}', "holds 'images' twice"),
        Bad("absent", b'{"names": {}}', "holds no images"),
        Bad("names is a list", b'{"images": [], "names": []}', "'names' is not an object"),
        Bad("names is a number", b'{"images": [], "names": 1}', "'names' is not an object"),
        Bad("deep", b'{"images": [{"id": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]}", "nested too deeply"),
        Bad("utf-16, cut", b"\xff\xfe{\0}", r"is damaged: .*\(utf-16\)"),
        Bad("no text", bytes(range(256)), "is not valid JSON: [^\n]*$"),
    ],
    ids=lambda c: c.id,
)
def test_damage_is_one_line(case: Bad, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(case.content)
    with pytest.raises(TaskError, match=case.says) as caught:
        read(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_depth_that_nobody_asked_for_is_stepped_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": ' + "[" * 50_000 + "]" * 50_000 + ', "images": [{"id": 1}]}')
    assert read(tmp_path / "a.json") == [("images", 1, {"id": 1})]
