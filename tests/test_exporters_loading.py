"""Exporters by name: ours first, then entry points, and a suggestion for a typing mistake."""

from __future__ import annotations

import dataclasses
import sys
import types
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from taco import plugins
from taco.errors import InputError
from taco.exporters import ort, ov, trt
from taco.exporters.loading import GROUP, OWN, load_exporter
from taco.exporters.protocol import Artifact, Compressed, RunOptions, Session
from taco.targets.loading import Target


class Foreign:
    """Another package's exporter, as its author would write it."""

    def check(self, target: Target) -> list[str]:
        return []

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        raise NotImplementedError

    def open(self, path: Path, options: RunOptions) -> Session:
        raise NotImplementedError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A package `acme` with entry points of our group."""
    module = types.ModuleType("acme")
    module.EXPORTER = Foreign()  # type: ignore[attr-defined]
    module.Exporter = Foreign  # type: ignore[attr-defined]
    module.half = types.SimpleNamespace(check=len)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acme", module)
    values = {
        "acme": "acme:EXPORTER",
        "ort": "acme:EXPORTER",
        "classy": "acme:Exporter",
        "half": "acme:half",
        "gone": "no_such_package_here:EXPORTER",
        "typo": "acme:EXPORTR",
    }
    points = EntryPoints(EntryPoint(name, value, GROUP) for name, value in values.items())

    def entry_points(*, group: str) -> EntryPoints:
        return points.select(group=group)

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return module


@pytest.mark.parametrize(("name", "expected"), [("ort", ort.EXPORTER), ("ov", ov.EXPORTER), ("trt", trt.EXPORTER)])
def test_our_own_are_found_by_name(name: str, expected: object) -> None:
    assert load_exporter(name) is expected


def test_every_own_name_is_a_module_with_the_whole_boundary() -> None:
    for name in OWN:
        exporter = load_exporter(name)
        assert all(callable(getattr(exporter, method)) for method in ("check", "export", "open"))


def test_another_packages_exporter_is_found(installed: types.ModuleType) -> None:
    assert load_exporter("acme") is installed.EXPORTER


def test_nobody_replaces_our_own(installed: types.ModuleType) -> None:
    assert load_exporter("ort") is ort.EXPORTER


@dataclasses.dataclass(frozen=True, slots=True)
class Wrong:
    """A name that cannot be loaded and what the message has to say."""

    name: str
    says: str


WRONG = (
    Wrong("classy", "acme:Exporter is no exporter: it is a class. Let the entry point name the constant"),
    Wrong("half", "acme:half is no exporter: it lacks export, open"),
    Wrong("gone", "exporter 'gone' .* cannot be loaded: No module named 'no_such_package_here'"),
    Wrong("typo", "exporter 'typo' .* cannot be loaded: .*EXPORTR"),
    Wrong("acmee", "there is no exporter 'acmee'. Did you mean acme"),
    Wrong("ORT", "there is no exporter 'ORT'. Did you mean ort"),
    Wrong("zzz", "there is no exporter 'zzz'. Exporters are: acme, classy, gone, half, ort, ov, trt, typo"),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_what_cannot_be_loaded_is_explained(wrong: Wrong, installed: types.ModuleType) -> None:
    with pytest.raises(InputError, match=wrong.says):
        load_exporter(wrong.name)


def test_entry_points_of_real_packages_are_looked_up() -> None:
    with pytest.raises(InputError, match=r"Exporters are: .*ort, .*trt"):
        load_exporter("none-of-these")
