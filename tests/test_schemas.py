"""docs/schemas says what the code says, and real reports obey it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from make_report import make_report

from taco import schemas


@pytest.mark.parametrize("name", schemas.MODELS)
def test_published_schema_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / "schemas" / name).read_text() == schemas.render(name), "run `make schemas`"


def test_schemas_are_written_whole(tmp_path: Path) -> None:
    schemas.main([str(tmp_path / "new")])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(schemas.MODELS)


def test_report_has_every_field_that_its_schema_requires() -> None:
    schema = json.loads(schemas.render("report.schema.json"))
    report = json.loads(make_report().model_dump_json())
    assert set(schema["required"]) <= set(report)
    assert set(report) == set(schema["properties"])
