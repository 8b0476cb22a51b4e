"""From a `Report` to the `Page` that is drawn: which parts there are and in what order."""

from __future__ import annotations

from taco.report import attached, camera, checked, detail, engines, loop, max_drop, record, results, sparsity, units
from taco.report.page import Page
from taco.report.schema import Report
from taco.report.verdict import actions, banner, cards, verdict


def build_page(report: Report) -> Page:
    """Lay out the report; a pure function of it."""
    return Page(
        title=f"{report.task.name} on {report.target}",
        banner=banner(report),
        verdict=verdict(report),
        actions=actions(report),
        cards=cards(report),
        warnings=tuple(report.warnings),
        sections=(
            results.accuracy_section(report),
            *detail.mistake_sections(report),
            *camera.light_sections(report),
            camera.abstention_section(report),
            camera.split_section(report),
            results.speed_section(report),
            *engines.engine_sections(report),
            *checked.precision_sections(report),
            *checked.half_sections(report),
            results.size_section(report),
            *sparsity.sparsity_sections(report),
            *([] if report.sparsity else [results.widths_section(report)]),
            *max_drop.max_drop_sections(report),
            *loop.loop_sections(report),
            record.conditions_section(report),
            *attached.device_sections(report),
            *units.unit_sections(report),
            *checked.gate_sections(report),
            record.parity_section(report),
            record.recovery_section(report),
            record.material_section(report),
            record.run_section(report),
        ),
        footer=f"Written by taco-export {report.taco_version}, {report.created}. The same figures are in report.json.",
    )
