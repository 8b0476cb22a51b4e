"""A picture is known again wherever it lies."""

from __future__ import annotations

from pathlib import Path

from taco.pictures.identity import picture_id


def test_the_name_and_the_place_do_not_matter_and_content_and_box_do(tmp_path: Path) -> None:
    first, copy, other, longer = (tmp_path / name for name in ("a.jpg", "b.png", "c.jpg", "d.jpg"))
    content = bytes(range(256)) * 300
    first.write_bytes(content)
    copy.write_bytes(content)
    other.write_bytes(b"x" + content[1:])
    longer.write_bytes(content + b"x")
    name = picture_id(first, None)
    assert name == picture_id(copy, None)
    assert name is not None
    assert len(name) == 16
    others = [picture_id(other, None), picture_id(longer, None), picture_id(first, (0.1, 0.1, 0.5, 0.5))]
    assert len({name, *others}) == 4
    assert picture_id(first, (0.1, 0.1, 0.5, 0.5)) == picture_id(first, (0.1000001, 0.1, 0.5, 0.5))
    assert picture_id(tmp_path / "gone.jpg", None) is None
