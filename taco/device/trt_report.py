"""What was found on the Jetson, put into the report that the host began: `report.json` and `report.md` in the folder.

`report.json` keeps the form of `taco.report.schema`, so that `taco report FOLDER` draws the whole page on any computer.
"""

from __future__ import annotations

import json
import os
import statistics
from typing import Any, Dict, List, Mapping, Sequence

from taco.device.intervals import ratios
from taco.device.statistics import wilson_ends
from taco.device.trt_engines import engine_file, engine_warnings, write_json, write_text
from taco.device.trt_kit import Kit
from taco.device.trt_preflight import NOT_HARDWARE
from taco.device.wire import RequestError

REPORT = "report.json"
HOST_REPORT = "report.host.json"
#: Warnings of the host that no longer hold once the device has run.
_OVER = ("has not been run on hardware", "was attached:", "no NVIDIA machine was found")
_ENGINE_FACTS = ("key", "precision", "engine_sha256", "engine_bytes", "build_s", "from_earlier_run", "gpu")
_MORE_FACTS = ("eligible", "chosen", "skipped", "unstable_percent")


def device_section(kit: Kit, found: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the device's part of the report, plain JSON values of `taco.report.schema.EnginesRun`."""
    engines = found["engines"]
    first = next(iter(engines.values()))
    return {
        "hardware": found["hardware"],
        "gpu": first["gpu"],
        "compute_capability": first["capability"],
        "tensorrt": found["tensorrt"],
        "recipe": found["recipe"],
        "strongly_typed": found["strongly_typed"],
        "jetson_linux": found["probe_before"]["jetson_linux"],
        "power_mode": found["power_mode"],
        "memory_free_mib": found["memory_free_mib"],
        "workspace_mib": found["workspace_mib"],
        "engines": {name: engine_section(facts) for name, facts in engines.items()},
        "used": dict(found["used"]),
        "accuracy": {name: _accuracy(kit, answers) for name, answers in found["answers"].items() if answers},
        "evaluated_on": kit.shown.kind,
        "gates": found["gates"],
        "layers": found["layers"],
        "warnings": found["warnings"],
    }


def engine_section(facts: Mapping[str, Any]) -> Dict[str, Any]:
    """Return one engine's part of the report, plain JSON values of `taco.report.device_schema.EngineFacts`."""
    return {key: facts[key] for key in (*_ENGINE_FACTS, *_MORE_FACTS)}


def filled(report: Mapping[str, Any], kit: Kit, found: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the host's report with what was found here.

    Args:
        report: What `report.json` held.
        kit: The folder.
        found: From `run_kit`.
    """
    rounds, used = found["rounds_ms"], found["used"]
    times = {role: rounds[used[role]] for role in ("dense", "compressed")}
    speedups = ratios(times["dense"], times["compressed"])
    section = device_section(kit, found)
    warnings = [text for text in report["warnings"] if not any(words in text for words in _OVER)]
    if section["hardware"] is None:
        warnings.append(f"{NOT_HARDWARE}: no NVIDIA machine was found, so every time here is that of a stand-in")
    if found["given_up"] is not None:
        warnings.append(f"INT8 was given up: {found['given_up']}")
    warnings.append("accuracies outside of the part `On the device` are those of the ONNX file on the host's processor")
    return {
        **report,
        "runtime": {
            **report["runtime"],
            "version": found["tensorrt"],
            "provider": "TensorRT",
            "precision": section["engines"][used["compressed"]]["precision"],
        },
        "size": _sizes(report["size"], kit, used),
        "latency_ms": {role: _latency(samples) for role, samples in times.items()},
        "latency_source": "measured",
        "baseline_fp32_ms": _latency(rounds["baseline_fp32"]) if "baseline_fp32" in rounds else None,
        "speedup": statistics.median(speedups),
        "speedup_rounds": speedups,
        "precision": _precision(report.get("precision"), found),
        "measured_on": _measured_on(found),
        "next_step": None,
        "warnings": [*warnings, *section["warnings"], *_engine_warnings(section)],
        "engines_run": section,
    }


def _engine_warnings(section: Mapping[str, Any]) -> List[str]:
    used = {name: section["engines"][name] for name in section["used"].values()}
    return engine_warnings(used, section["layers"])


def _sizes(told: Mapping[str, Any], kit: Kit, used: Mapping[str, str]) -> Dict[str, Any]:
    """Return the sizes with the bytes of the graphs that are used here."""
    files = {role: os.path.join(kit.folder, kit.models[name].weak) for role, name in used.items()}
    return {**told, **{role: {**told[role], "bytes": os.path.getsize(file)} for role, file in files.items()}}


def _precision(told: Any, found: Mapping[str, Any]) -> Any:
    """Return what the report says of INT8: whether it was faster than FP16 here, and whether it is used."""
    if told is None or found["gain"] is None:
        return told
    used = found["engines"][found["used"]["compressed"]]["precision"]
    gain = {"faster_than_fp32": list(found["gain"]), "compared_with": "fp16"}
    return {**told, **gain, "used": used, "given_up": found["given_up"]}


def write_reports(kit: Kit, found: Mapping[str, Any]) -> List[str]:
    """Write `device.json` (everything, raw), `report.json` and `report.md` into the folder.

    What the host had written stays as `report.host.json`.

    Returns:
        The lines of `report.md`.

    Raises:
        RequestError: The host's report is missing or damaged.
        DeviceError: The disk is full.
    """
    path = os.path.join(kit.folder, REPORT)
    try:
        report = _host_report(kit.folder)
        whole = filled(report, kit, found)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}", "Copy the whole folder again.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path} is not a report of this program: {error}", "Copy the whole folder again."
        ) from error
    lines = markdown(whole)
    write_json(os.path.join(kit.folder, "device.json"), dict(found))
    write_json(path, whole)
    write_text(os.path.join(kit.folder, "report.md"), "\n".join(lines) + "\n")
    return lines


def _host_report(folder: str) -> Dict[str, Any]:
    """Return the report that the host began; it is kept, so that a second run starts from it too."""
    path, kept = os.path.join(folder, REPORT), os.path.join(folder, HOST_REPORT)
    with open(path, encoding="utf-8") as stream:
        report: Dict[str, Any] = json.load(stream)
    if report.get("engines_run") is None or not os.path.exists(kept):
        write_json(kept, report)
        return report
    with open(kept, encoding="utf-8") as stream:
        first: Dict[str, Any] = json.load(stream)
    return first


def failed(found: Mapping[str, Any]) -> List[str]:
    """Return the names of the gates that failed on the device."""
    return [gate["name"] for gate in found["gates"] if gate["passed"] is False]


def markdown(report: Mapping[str, Any]) -> List[str]:
    """Return the short report for reading on the device itself; `taco report` draws the full one elsewhere."""
    device, small, dense = report["engines_run"], report["latency_ms"]["compressed"], report["latency_ms"]["dense"]
    lines = [f"# {report['task']['name']} on {report['target']}", ""]
    lines += [f"**{NOT_HARDWARE}**: these are the figures of a stand-in.", ""] if device["hardware"] is None else []
    broken = [gate for gate in device["gates"] if gate["passed"] is False]
    lines += [f"**FAILED: {gate['name']}: {gate['measured']}. Do not use this engine.**" for gate in broken]
    speedups, name = report["speedup_rounds"], device["used"]["compressed"]
    lines += [
        f"Speed-up {report['speedup']:.2f} (rounds: {min(speedups):.2f} to {max(speedups):.2f}, n = {len(speedups)}).",
        f"The engine to use: `{engine_file(name, device['engines'][name]['key'])}`.",
        "",
        "| ms for one picture | p50 | p90 | p99 | min | runs |",
        "| :-- | --: | --: | --: | --: | --: |",
        *[_row(name, timing) for name, timing in (("dense", dense), ("compressed", small))],
        *([_row("dense, fp32", report["baseline_fp32_ms"])] if report["baseline_fp32_ms"] else []),
        "",
        "GPU time from first kernel to last; copying the picture to the GPU is not in it.",
        "",
    ]
    for name, score in device["accuracy"].items():
        ends = f"{score['low']:.1f} to {score['high']:.1f}"
        lines.append(
            f"- {name}: {score['percent']:.1f} % right ({ends}) on {score['n']} {device['evaluated_on']} pictures"
        )
    lines += [
        "",
        f"TensorRT {device['tensorrt']}, power mode {device['power_mode']}, {device['hardware'] or NOT_HARDWARE}.",
        "",
    ]
    for name, found in device["layers"].items():
        lines += [f"## Slowest parts of {name}", "", "| part | ms | share |", "| :-- | --: | --: |"]
        lines += [f"| {row['module']} | {row['ms']:.4f} | {row['percent']:.1f} % |" for row in found["modules"][:10]]
        lines += [f"| unattributed | | {found['unattributed_percent']:.1f} % |", ""]
    lines += [f"- {text}" for text in report["warnings"]]
    return [*lines, "", "The full page: `taco report FOLDER` on any computer with taco-export."]


def _row(name: str, timing: Mapping[str, Any]) -> str:
    figures = " | ".join(f"{timing[key]:.3f}" for key in ("p50", "p90", "p99", "min"))
    return f"| {name} | {figures} | {timing['n']} |"


def _accuracy(kit: Kit, answers: Sequence[int]) -> Dict[str, Any]:
    n = len(answers)
    right = sum(int(answer == label) for answer, label in zip(answers, kit.shown.labels))  # noqa: B905 - Python 3.8
    low, high = wilson_ends(right, n)
    return {
        "percent": 100 * right / n,
        "low": 100 * max(0.0, min(low, right / n)),
        "high": 100 * min(1.0, max(high, right / n)),
        "n": n,
    }


def _latency(rounds: Sequence[Sequence[float]]) -> Dict[str, Any]:
    samples = [round(sample, 5) for one in rounds for sample in one]
    ordered = sorted(samples)
    return {
        "n": len(samples),
        "min": ordered[0],
        "p50": statistics.median(ordered),
        "p90": _percentile(ordered, 90),
        "p99": _percentile(ordered, 99),
        "samples": samples,
    }


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """Between the two nearest by a straight line, as numpy does."""
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _measured_on(found: Mapping[str, Any]) -> Dict[str, str]:
    before, after = found["probe_before"], found["probe_after"]
    fixed = {key: str(before[key]) for key in ("board", "processor", "os", "kernel", "jetson_linux", "python")}
    moments = {
        f"{key} {when}": _words(state["telemetry"].get(key))
        for when, state in (("before", before), ("after", after))
        for key in ("temperatures_c", "governor", "load_average", "memory_available_mib")
    }
    what = "GPU, from first kernel to last; copying the picture to the GPU is not in it"
    return {"power mode": str(found["power_mode"]), "time is that of": what, **fixed, **moments}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "unknown"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "unknown"
    return "unknown" if value in (None, "") else str(value)
