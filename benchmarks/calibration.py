"""Second moments of every layer of a timm model in bounded memory, against its plain forward passes.

    OMP_NUM_THREADS=2 python -m benchmarks.calibration resnet50 --pictures 160

Weights and pictures are random: neither time nor memory depends on them.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator, Sequence

import timm
import torch
from torch import nn

from taco.calibrate import CalibrationOptions, calibrate_wave, plan_waves
from taco.moments.unfold import can_unfold

MIB = 1024**2


def main(arguments: Sequence[str] = ()) -> None:
    """Calibrate one model and print what it took."""
    asked = _parser().parse_args(arguments)
    model = timm.create_model(asked.model).eval()
    side = asked.side or timm.data.resolve_model_data_config(model)["input_size"][-1]
    layers = [name for name, layer in model.named_modules() if can_unfold(layer)]

    def batches() -> Iterator[torch.Tensor]:
        for begin in range(0, asked.pictures, asked.batch):
            generator = torch.Generator().manual_seed(begin)
            yield torch.randn(min(asked.batch, asked.pictures - begin), 3, side, side, generator=generator)

    plain_s = _forward_s(model, batches())
    options = CalibrationOptions(budget_bytes=asked.budget_mib * MIB, positions=asked.positions or None)
    begin = time.perf_counter()
    waves = plan_waves(model, layers, next(batches())[:1], options)
    seconds, summed, seen = [time.perf_counter() - begin], 0, 0
    for wave in waves:
        begin = time.perf_counter()
        for _, moments in calibrate_wave(model, wave, batches(), options):
            halves = [half for half in (moments.fit, moments.held_out) if half is not None]
            summed += sum(half.n for half in halves)
            seen += sum(half.positions_seen for half in halves)
            del halves, moments
        seconds.append(time.perf_counter() - begin)
        print(f"  wave of {len(wave.layers):3d} layers, {wave.size_bytes / MIB:6.0f} MiB: {seconds[-1]:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    threads = torch.get_num_threads()
    print(
        f"{asked.model}: {len(layers)} layers, {asked.pictures} pictures of {side} px, {threads} threads:"
        f" {sum(seconds):.1f} s in {len(waves)} waves, {sum(seconds) / plain_s:.2f} times one plain pass"
        f" ({plain_s:.1f} s); {100 * summed / seen:.0f} % of the positions; peak RSS {peak:.0f} MiB"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration")
    parser.add_argument("model", nargs="?", default="tf_efficientnet_lite0")
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=0, help="pixels; the model's own by default")
    parser.add_argument("--budget-mib", type=int, default=2048)
    parser.add_argument("--positions", type=int, default=256, help="of one picture; 0 sums all")
    return parser


def _forward_s(model: nn.Module, batches: Iterator[torch.Tensor]) -> float:
    begin = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            model(batch.contiguous(memory_format=torch.channels_last))
    return time.perf_counter() - begin


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
