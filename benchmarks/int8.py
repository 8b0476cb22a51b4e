"""INT8 of ours against what a user would take instead: ONNX Runtime's own quantiser, and NNCF.

`python -m benchmarks.int8 RESULTS` works off the cells that RESULTS does not hold yet, one JSON file each, and prints
the table of docs/benchmarks.md from all that are there. Dense EfficientNet-Lite0 and Lite2 with the weights that pip
alone brings, 10 ImageNet species, 16 shots, two tasks (seeds). A MobileNetV3-small, in which INT8 hurts, has no such
weights: its features are random and its head is fitted; there NNCF's accuracy-controlled quantisation stands beside
ours. Times are interleaved, each model in a process of its own, against the dense fp32 file under ONNX Runtime.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks._animals import DATA, compared, imagenet_indices
from benchmarks._page import told_drop
from taco.device.bench import bench
from taco.exporters.graph import write_onnx
from taco.exporters.loading import load_exporter
from taco.exporters.mixed import divergence
from taco.exporters.protocol import Calibration, Compressed, FloatArray, Reference, RunOptions
from taco.exporters.scheme import here
from taco.files import write_atomically
from taco.material import Material, divide, find_pictures, labels_of
from taco.model import load_generalist
from taco.options import make_options
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import LabelledPicture
from taco.specialist.specialise import make_head, predict_logits, specialise
from taco.targets.loading import load_target
from taco.timing.timings import median_ratio

MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")
HARD = "mobilenetv3_small_100"
CLASSES, SHOTS = 10, 16
ORT, OV = "CPUExecutionProvider", "CPU"
RUNTIMES = {ORT: "ort", OV: "ov"}


class Setting:
    """One dense specialist, its pictures, and its fp32 file."""

    def __init__(self, model: str, seed: int, data: Path, scratch: Path) -> None:
        known = imagenet_indices(data)
        classes = sorted(np.random.default_rng(1000 + seed).choice(sorted(known), CLASSES, replace=False).tolist())
        class_map = scratch / "map.json"
        class_map.write_text(json.dumps(known))
        random = model == HARD
        options = make_options(
            {
                "task": data, "target": "host-cpu", "classes": tuple(classes), "shots": SHOTS, "seed": seed,
                "class_map": None if random else class_map, "head": "fit" if random else "auto",
                "model": model, "random_weights": random,
                "out": scratch / "out",
            }
        )  # fmt: skip
        generalist = load_generalist(model, random_weights=random, seed=seed)
        listings = find_pictures(options)
        pixels = BankOptions(scratch / f"{model}-{seed}.pixels")
        bank = PictureBank.read(listings.views, generalist.preprocessing, pixels)
        self.material: Material = divide(listings, bank, options)
        self.module = specialise(generalist, make_head(generalist, self.material, options)).module
        self.size = generalist.preprocessing.input_size
        self.fp32 = scratch / f"{model}-{seed}.onnx"
        write_onnx(Compressed(self.module, self.size), self.fp32)

    def one_by_one(self, pictures: Sequence[LabelledPicture]) -> Callable[[], Iterable[FloatArray]]:
        """Return preprocessed pictures, (1, 3, H, W) each."""
        views = [p.view for p in pictures]
        return lambda: self.material.bank.batches(views, 1)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Fit pictures for ranges, select pictures for choices; evaluation pictures are not touched."""
        select = self.material.task.select
        labels = np.array([p.label_index for p in select])
        logits = predict_logits(self.module, self.material.batches(select))
        return Calibration(self.one_by_one(self.material.task.fit), Reference(self.one_by_one(select), labels, logits))

    @functools.cached_property
    def truth(self) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """Labels and torch's logits of the evaluation pictures."""
        labels = labels_of(self.material.judged)
        return labels, predict_logits(self.module, self.material.batches(self.material.judged))

    def judge(self, file: Path, provider: str) -> dict[str, Any]:
        """Return accuracy on the evaluation pictures, the paired drop against torch, and the divergence from it."""
        labels, expected = self.truth
        session = load_exporter(RUNTIMES[provider]).open(file, RunOptions(1, provider))
        got = np.concatenate([session.run(p) for p in self.one_by_one(self.material.judged)()])
        classes = self.material.task.classes
        found = compared(labels, expected.argmax(1), got.argmax(1), classes)
        return {"torch": found.pop("before"), **found, "divergence": divergence(expected, got)}


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """One way from the fp32 model to a file.

    Attributes:
        name: In the table.
        provider: What runs the file.
        make: Writes the file; returns facts for the table.
    """

    name: str
    provider: str
    make: Callable[[Setting, Path], Mapping[str, Any]]


def ours(provider: str, setting: Setting, file: Path) -> Mapping[str, Any]:
    """Our own Q/DQ, with the gate on the select pictures."""
    target = dataclasses.replace(
        load_target("host-cpu"), runtime=RUNTIMES[provider], provider=provider, precision="int8", threads=1
    )
    model = Compressed(setting.module, setting.size, setting.calibration, setting.fp32)
    found = load_exporter(target.runtime).export(model, target, file).quantisation
    assert found is not None
    return {"layers": found.layers, "in_int8": found.quantised, "scheme": found.scheme}


def unchanged(setting: Setting, file: Path) -> Mapping[str, Any]:
    """The fp32 file as it is."""
    file.write_bytes(setting.fp32.read_bytes())
    return {}


def ort_default(setting: Setting, file: Path, **more: Any) -> Mapping[str, Any]:
    """ONNX Runtime's static quantisation with its own defaults; `more` are its arguments."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(setting.calibration.fit())

        def get_next(self) -> dict[str, FloatArray] | None:
            picture = next(self._left, None)
            return None if picture is None else {"input": picture}

    quantize_static(str(setting.fp32), str(file), Reader(), **more)
    return counted(file)


def nncf_default(setting: Setting, file: Path) -> Mapping[str, Any]:
    """NNCF's post-training quantisation of the OpenVINO model, its own defaults."""
    import nncf
    import openvino

    model = openvino.Core().read_model(setting.fp32)
    pictures = list(setting.calibration.fit())
    quantised = nncf.quantize(model, nncf.Dataset(pictures), subset_size=len(pictures))
    openvino.save_model(quantised, file, compress_to_fp16=False)
    return counted_ir(quantised)


def nncf_controlled(setting: Setting, file: Path) -> Mapping[str, Any]:
    """NNCF's quantisation under accuracy control: at most a point on the select pictures, as ours."""
    import nncf
    import openvino

    reference = setting.calibration.reference
    assert reference is not None
    fit, select = list(setting.calibration.fit()), list(reference.select())

    def right(compiled: Any, items: Iterable[Any]) -> float:
        pairs = list(items)
        output = compiled.output(0)
        return float(np.mean([compiled(picture)[output].argmax() == label for picture, label in pairs]))

    validation = nncf.Dataset(list(zip(select, reference.labels.tolist(), strict=True)), lambda item: item[0])
    model = openvino.Core().read_model(setting.fp32)
    quantised = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(fit),
        validation_dataset=validation,
        validation_fn=right,
        max_drop=0.01,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(fit),
    )
    openvino.save_model(quantised, file, compress_to_fp16=False)
    return counted_ir(quantised)


def counted(file: Path) -> Mapping[str, Any]:
    """Count the layers of an ONNX file whose weight comes out of a DequantizeLinear."""
    graph = onnx.load(file).graph
    made = {out for node in graph.node if node.op_type == "DequantizeLinear" for out in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return {"layers": len(layers), "in_int8": sum(node.input[1] in made for node in layers)}


def counted_ir(model: Any) -> Mapping[str, Any]:
    """Count the layers of an OpenVINO model whose input comes out of a FakeQuantize."""
    layers = [op for op in model.get_ops() if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")]
    quantised = [op for op in layers if op.input_value(0).get_node().get_type_name() == "FakeQuantize"]
    return {"layers": len(layers), "in_int8": len(quantised)}


def _better_default(setting: Setting, file: Path) -> Mapping[str, Any]:
    """ONNX Runtime's quantiser with the arguments that an expert gives on x86."""
    from onnxruntime.quantization import QuantType

    return ort_default(setting, file, per_channel=True, activation_type=QuantType.QUInt8, reduce_range=here() == "x86")


WAYS = (
    Way("fp32, ORT", ORT, unchanged),
    Way("fp32, OpenVINO", OV, unchanged),
    Way("INT8 ours, ORT", ORT, functools.partial(ours, ORT)),
    Way("INT8 ours, OpenVINO", OV, functools.partial(ours, OV)),
    Way("ORT's own, defaults", ORT, ort_default),
    Way("ORT's own, U8S8 per channel", ORT, _better_default),
    Way("NNCF, defaults", OV, nncf_default),
)
CONTROLLED = Way("NNCF, accuracy control", OV, nncf_controlled)


def work(results: Path, data: Path, models: Sequence[str], seeds: Sequence[int]) -> None:
    """Make and judge every file that is missing; then time the models of each setting against each other."""
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        setting = functools.cache(lambda model, seed: Setting(model, seed, data, Path(name)))
        for model in models:
            for seed in seeds:
                _work_one(results, f"{model}-{seed}", _ways(model), functools.partial(setting, model, seed))


def _work_one(results: Path, title: str, ways: Sequence[Way], setting: Callable[[], Setting]) -> None:
    for way in ways:
        cell = results / f"{title}-{_file_name(way.name)}.json"
        if not cell.exists():
            file = cell.with_suffix(".xml" if way.name.startswith("NNCF") else ".onnx")
            facts = way.make(setting(), file)
            _write(cell, {**facts, "file": file.name, **setting().judge(file, way.provider)})
    times = results / f"{title}-times.json"
    if not times.exists():
        cells = {way.name: _read(results / f"{title}-{_file_name(way.name)}.json") for way in ways}
        _write(times, _times(ways, cells, results))


def _ways(model: str) -> tuple[Way, ...]:
    return (*WAYS, CONTROLLED) if model == HARD else WAYS


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")


def _times(ways: Sequence[Way], cells: Mapping[str, Mapping[str, Any]], results: Path) -> Mapping[str, Any]:
    """Time all files in one interleaved run."""
    request = {
        "models": {way.name: cells[way.name]["file"] for way in ways},
        "providers": {way.name: way.provider for way in ways},
        "rounds": 25,
        "max_seconds": 240,
    }
    result = bench(request, str(results))
    middles = {
        name: [float(np.median(samples)) for samples in model["rounds_ms"]] for name, model in result["models"].items()
    }
    first = middles[ways[0].name]
    found: dict[str, Any] = {"threads": result["threads"], "isa": result["probe_before"]["isa"]}
    for name, mine in middles.items():
        ratio = median_ratio([slow / fast for slow, fast in zip(first, mine, strict=True)])
        samples = [sample for samples in result["models"][name]["rounds_ms"] for sample in samples]
        found[name] = {
            "p50": float(np.median(samples)), "min": min(samples),
            "ratio": ratio.value, "low": ratio.low, "high": ratio.high,
        }  # fmt: skip
    return found


def _write(file: Path, found: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
    print(f"{file.stem}: {found.get('percent', 'timed')}", flush=True)


def table(results: Path, models: Sequence[str], seeds: Sequence[int]) -> str:
    """Return the Markdown table of all cells that are there; a missing one is a dash."""
    lines = [
        "| model, task | way | right, % (95 %) | lost against torch (95 %) | divergence | layers in INT8 | p50 ms | "
        "times as fast as fp32 ORT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        for seed in seeds:
            times = _read(results / f"{model}-{seed}-times.json")
            for way in _ways(model):
                cell = _read(results / f"{model}-{seed}-{_file_name(way.name)}.json")
                lines.append(f"| {model}, {seed} | {way.name} | {_row(cell, times.get(way.name))} |")
    return "\n".join(lines) + "\n"


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _row(cell: Mapping[str, Any], time: Mapping[str, float] | None) -> str:
    if not cell:
        return "- | - | - | - | - | -"
    layers = f"{cell['in_int8']} of {cell['layers']}" if "layers" in cell else "fp32"
    timed = f"{time['p50']:.2f} | {time['ratio']:.2f} ({time['low']:.2f} to {time['high']:.2f})" if time else "- | -"
    return (
        f"{cell['percent']:.1f} ({cell['low']:.1f} to {cell['high']:.1f}) | {told_drop(cell)} | "
        f"{cell['divergence']:.4f} | {layers} | {timed}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("results", type=Path, help="folder of the cells")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", nargs="+", default=[*MODELS, HARD])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    if not given.table:
        work(given.results, given.data, given.models, given.seeds)
    print(table(given.results, given.models, given.seeds), end="")


if __name__ == "__main__":
    main()
