"""`taco front` before any work: its own budgets, its own folder, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from taco import api
from taco.commands.front import _numbers, _options
from taco.commands.request import make_request
from taco.errors import InputError
from taco.options import make_options


def test_speeds_are_read_once_each_and_words_are_refused() -> None:
    assert _numbers("1.5, 2,2,") == (1.5, 2.0)
    with pytest.raises(InputError, match="numbers with commas"):
        _numbers("fast")


def test_budgets_of_a_settings_file_are_not_used_and_that_is_said(tmp_path: Path) -> None:
    config = tmp_path / "taco.toml"
    config.write_text('task = "photos"\nspeedup = 2\nshots = 8\n')
    given: dict[str, object] = {"target": "host-cpu-int8"}
    options, notes = _options(make_request(given, config), given, 2.0)
    assert (options.speedup, options.shots, options.max_drop, options.allocation) == (None, 8, 2.0, "latency")
    assert options.out == Path("runs/front-host-cpu-int8")
    assert any("speedup of the settings is not used" in note for note in notes)


def test_a_folder_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    given: dict[str, object] = {"task": tmp_path, "out": tmp_path / "mine", "target": "host-cpu"}
    options, notes = _options(make_request(given), given, 1.0)
    assert options.out == tmp_path / "mine"
    assert notes == []


def test_no_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no pictures were given"):
        _options(make_request({}), {}, 1.0)


def test_a_second_device_is_refused_and_not_ignored(tmp_path: Path) -> None:
    values = {"task": tmp_path, "out": tmp_path / "out", "target": "raspberry-pi-5", "device": ("ssh://a", "ssh://b")}
    with pytest.raises(InputError, match="measured on one device, and --device names 2"):
        api.front(make_options(values))
    assert not (tmp_path / "out").exists()
