"""What the page says of a device: nothing measured there, a stand-in, an engine that lost answers, a good one."""

from __future__ import annotations

from typing import Any

import pytest
from make_report import make_report, make_unmeasured

from taco.commands import printing
from taco.report.device_schema import EngineFacts, EnginesRun, LayerProfile, ModuleTime
from taco.report.engines import not_on_hardware
from taco.report.markdown import render_markdown
from taco.report.parts import GateResult, Proportion
from taco.report.schema import Report, RuntimeSection

TENSORRT = RuntimeSection(name="TensorRT", version="10.3.0", precision="fp16", provider="TensorRT", threads=None)


def make_run(**changes: Any) -> EnginesRun:
    """An Orin on which everything went well."""
    engine = EngineFacts(
        key="0123456789abcdef", precision="fp16", engine_sha256="a" * 64, engine_bytes=4_000_000, build_s=90.0,
        from_earlier_run=False, gpu="Orin", eligible=12, chosen=3, skipped=2, unstable_percent=[4.2],
    )  # fmt: skip
    rows = [ModuleTime(module="blocks.0.conv", ms=1.0, percent=80.0, units=["blocks.0"])]
    profile = LayerProfile(
        modules=rows, total_ms=1.25, unattributed_percent=20.0, shared_percent=5.0, engine_layers=9, sparse_kernels=3
    )
    gate = GateResult(name="engine of compressed against its file", passed=True, measured="0 lost", limit="1 point")
    fields: dict[str, Any] = {
        "hardware": "NVIDIA Jetson Orin Nano", "gpu": "Orin", "compute_capability": "8.7", "tensorrt": "10.3.0",
        "recipe": "10.3", "strongly_typed": False, "jetson_linux": "R36.4.3", "power_mode": "15W",
        "memory_free_mib": 5000, "workspace_mib": 2500, "engines": {"compressed": engine},
        "accuracy": {"compressed": Proportion(percent=97.0, low=94.0, high=99.0, n=200)},
        "evaluated_on": "evaluation", "gates": [gate], "layers": {"compressed": profile}, "warnings": [],
    }  # fmt: skip
    return EnginesRun.model_validate({**fields, **changes})


def orin(**changes: Any) -> Report:
    return make_report(
        target="jetson-orin", local=False, runtime=TENSORRT, engines_run=make_run(**changes), speedup_asked=None
    )


def text_of(report: Report) -> str:
    return render_markdown(report).replace("\N{NO-BREAK SPACE}", " ").replace("\\", "")


def test_until_a_device_has_run_it_the_page_says_so() -> None:
    page = text_of(make_unmeasured(runtime=TENSORRT))
    assert "Not run on hardware: no jetson-orin has built or run this model yet." in page
    assert "On the device" not in page


def test_other_runtimes_need_no_such_label() -> None:
    assert not_on_hardware(make_report()) == ""


def test_a_device_s_figures_are_shown_with_what_they_rest_on() -> None:
    page = text_of(orin())
    assert "not run on hardware" not in page.lower()
    for words in (
        "The engines answer as the files they were built from.",
        "NVIDIA Jetson Orin Nano",
        "10.3.0, weakly typed networks (options of 10.3)",
        "| compressed | 97.0 % | 94.0 to 99.0 % | 200 |",
        "3 of 12",
        "4.2 %",
        "| blocks.0.conv | 1.00 | 80.0 % | blocks.0 |",
        "| unattributed | \N{EN DASH} | 20.0 % | \N{EN DASH} |",
    ):
        assert words in page, words


def test_a_stand_in_is_named_above_everything() -> None:
    page = text_of(orin(hardware=None))
    assert page.index("not run on hardware: no NVIDIA machine was found") < page.index("Speed-up")


def test_an_engine_that_lost_answers_is_named_above_everything() -> None:
    lost = GateResult(name="engine of compressed against its file", passed=False, measured="9 lost", limit="1 point")
    page = text_of(orin(gates=[lost]))
    assert page.index("THE ENGINE FAILED ITS CHECK ON THE DEVICE") < page.index("Speed-up")
    assert "FAILED: engine of compressed against its file. Do not use these engines." in page


def test_without_pictures_the_accuracy_of_the_engine_is_unknown() -> None:
    page = text_of(orin(gates=[], accuracy={}))
    assert "the engines' accuracy is unknown" in page
    assert "Accuracy was not measured on the device." in page


@pytest.mark.parametrize(
    ("hardware", "words"),
    [("NVIDIA Jetson Orin Nano", "measured on the jetson-orin ("), (None, "not run on hardware: no NVIDIA machine")],
)
def test_the_console_says_where_it_was_measured(hardware: str | None, words: str) -> None:
    assert words in dict(printing._lines(orin(hardware=hardware)))["speed"]
