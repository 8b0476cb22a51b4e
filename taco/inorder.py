"""Refit the layers that read cut channels once more, in the model's order, each for what those before it have left.

`taco.compress.stitch` refits every reader on the dense model's inputs, so that errors pile up with depth. Here groups
of readers are refitted one after the other: for the inputs of the smaller prefix, towards the dense model's outputs,
    V = (2 Y X^^T / n + ridge W)(H^ + ridge I)^-1,
W what stitching left (`taco.asymmetric.effective_weight`); the bias makes up for the means.
"""

from __future__ import annotations

import copy
import dataclasses

from torch import nn

from taco.asymmetric import AsymmetricMoments, calibrate_pair, effective_weight
from taco.calibrate import Batches
from taco.errors import SolverError
from taco.sequential import SequentialOptions, plan_groups
from taco.shrink import replace_parameter
from taco.unfold import known, weight_matrix


def narrowed_readers(dense: nn.Module, smaller: nn.Module) -> list[str]:
    """Name the layers that read fewer channels than the dense model's and give as many."""
    found = []
    for name, layer in smaller.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            before, now = known(dense.get_submodule(name)).weight.shape, layer.weight.shape
            if before[0] == now[0] and before[1] > now[1]:
                found.append(name)
    return found


def refit_in_order(
    dense: nn.Module,
    smaller: nn.Module,
    batches: Batches,
    options: SequentialOptions,
    damping: float = 1e-2,
) -> nn.Module:
    """Return a new module like `smaller` whose narrowed readers give what the dense model's give, as nearly as may be.

    Args:
        dense: Gives the targets; eval mode, not modified.
        smaller: From `stitch`; eval mode, not modified.
        batches: Gives float32 inputs (N, C, H, W), each time the same.
        options: Groups and sampling.
        damping: Ridge, a multiple of mean(diag H^).

    Raises:
        SolverError: A layer cannot be solved; names it.
        TaskError: There is no picture.
    """
    model = copy.deepcopy(smaller)
    names = narrowed_readers(dense, model)
    for group in plan_groups(model, names, batches, options) if names else ():
        calibration = dataclasses.replace(options.calibration, positions=None)
        moments = calibrate_pair(dense, model, group, batches(), calibration)
        for name in group:
            _refit(name, known(dense.get_submodule(name)), known(model.get_submodule(name)), moments[name], damping)
        if options.progress is not None:
            options.progress(1)
    return model


def _refit(
    name: str,
    before: nn.Conv2d | nn.Linear,
    layer: nn.Conv2d | nn.Linear,
    moments: AsymmetricMoments,
    damping: float,
) -> None:
    try:
        best = effective_weight(moments, weight_matrix(layer), damping, centred=True)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which has no public name
        raise SolverError(
            f"{name}: inputs cannot be told apart at damping {damping:g}", f"Raise the damping to {10 * damping:g}"
        ) from error
    shift = moments.target_mean - (best @ moments.inputs.mean[:, :, None])[:, :, 0]
    bias = shift.flatten()
    if before.bias is not None:
        bias = bias + before.bias.detach().double()
    layer.weight = replace_parameter(best.reshape(layer.weight.shape), layer.weight)
    layer.bias = replace_parameter(bias, layer.weight)
