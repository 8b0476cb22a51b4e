"""Refit the layers that read cut channels once more, in the model's order, each for what those before it have left.

`taco.compress.stitch` refits every reader on the dense model's inputs, so that errors pile up with depth. Here groups
of readers are refitted one after the other: for the inputs of the smaller prefix, towards the dense model's outputs,
    V = (2 Y X^^T / n + ridge W)(H^ + ridge I)^-1,
W what stitching left (`taco.moments.asymmetric.effective_weight`); the bias makes up for the means. Where a block was
left out, the next layer that mixes channels is refitted too: it is the one that can make up for what the block added
(the adaptor of PRACTISE, Wang and Wu, CVPR 2023, here in closed form and inside a layer that is there anyway).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from timm.layers import Attention
from torch import nn

from taco.calibrate import Batches
from taco.errors import SolverError
from taco.moments.asymmetric import AsymmetricMoments, PairedModels, effective_weight
from taco.moments.replay import Replay
from taco.moments.unfold import can_unfold, known, weight_matrix
from taco.sparse.sequential import SequentialOptions, plan_groups
from taco.surgery.shrink import replace_parameter

#: Layer -> (kept,) int64, which of its dense outputs are left; see `taco.compress.kept_rows`.
Rows = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class InOrder:
    """Everything that refitting in order needs besides the smaller model.

    Attributes:
        dense: Gives the targets; eval mode, not modified.
        batches: Gives float32 inputs (N, C, H, W), each time the same.
        options: Groups and sampling.
        rows: Of the smaller model's widths; layers that lost outputs and are missing here are left alone.
        damping: Ridge, a multiple of mean(diag H^).
    """

    dense: nn.Module
    batches: Batches
    options: SequentialOptions = dataclasses.field(default_factory=SequentialOptions)
    rows: Rows = dataclasses.field(default_factory=dict)
    damping: float = 1e-2

    def layers(self, smaller: nn.Module) -> list[str]:
        """Name what is to be refitted: readers of fewer channels, and those that follow a block which was left out."""
        return list(dict.fromkeys([*self.narrowed(smaller), *self.after(smaller)]))

    def narrowed(self, smaller: nn.Module) -> list[str]:
        """Name the layers that read fewer channels than the dense model's and whose dense outputs are a target."""
        found = []
        for name, layer in smaller.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and can_unfold(layer):
                before, now = known(self.dense.get_submodule(name)).weight.shape, layer.weight.shape
                if before[1] > now[1] and self._has_target(smaller, name):
                    found.append(name)
        return found

    def after(self, smaller: nn.Module) -> list[str]:
        """Name, for every block that was left out, the next layer that mixes channels, where it has a target."""
        gone = left_out(self.dense, smaller)
        picture = next((batch[:1] for batch in self.batches()), None) if gone else None
        found: dict[str, None] = {}
        waiting = False
        for name in () if picture is None else _order(self.dense, gone, picture):
            if name in gone:
                waiting = True
            elif waiting and not any(name.startswith(f"{block}.") for block in gone):
                waiting = False
                if self._has_target(smaller, name):
                    found[name] = None
        return list(found)

    def refit(self, smaller: nn.Module, layers: Sequence[str], begun: Replay | None = None) -> nn.Module:
        """Return a new module in which the named layers give what the dense model's give, as nearly as may be.

        Args:
            smaller: From `taco.compress.stitch`; eval mode, not modified.
            layers: Some or all of `layers`; they have biases afterwards.
            begun: Of the dense model, as far as the smaller one is the same; None begins with the pictures.

        Raises:
            SolverError: A layer cannot be solved; names it.
            TaskError: There is no picture.
        """
        model, options = with_biases(smaller, layers), self.options
        pair = PairedModels(self.dense, model, begun)
        groups = plan_groups(model, layers, self.batches, options) if layers else ()
        for group in groups:
            calibration = dataclasses.replace(options.calibration, positions=None)
            moments = pair.calibrate(group, self.batches(), calibration, self.rows, last=group is groups[-1])
            for name in group:
                before, now = known(self.dense.get_submodule(name)), known(model.get_submodule(name))
                _refit(name, before.bias, now, moments[name], (self.rows.get(name), self.damping))
            if options.progress is not None:
                options.progress(len(group))
        return model

    def _has_target(self, smaller: nn.Module, name: str) -> bool:
        """Whether the dense layer's outputs, or those that are left of them, are what this one should give."""
        layer, before = smaller.get_submodule(name), known(self.dense.get_submodule(name)).weight.shape[0]
        rows = layer.get_parameter("weight").shape[0]
        if rows != (len(self.rows[name]) if name in self.rows else before):
            return False
        owner = name.rpartition(".")[0]
        attention, original = smaller.get_submodule(owner), self.dense.get_submodule(owner)
        if not isinstance(attention, Attention) or not isinstance(original, Attention):
            return True
        return attention.head_dim == original.head_dim or not name.endswith(".qkv")  # else queries were mixed anew


def refit_in_order(
    dense: nn.Module,
    smaller: nn.Module,
    batches: Batches,
    options: SequentialOptions,
    rows: Rows | None = None,
) -> nn.Module:
    """Refit everything that `InOrder.layers` names; arguments and errors as there."""
    how = InOrder(dense, batches, options, rows or {})
    return how.refit(smaller, how.layers(smaller))


def with_biases(model: nn.Module, layers: Sequence[str]) -> nn.Module:
    """Return a copy whose named layers all have a bias, of zeros where there was none."""
    copied = copy.deepcopy(model)
    for name in layers:
        layer = known(copied.get_submodule(name))
        if layer.bias is None:
            layer.bias = replace_parameter(torch.zeros(layer.weight.shape[0]), layer.weight)
    return copied


def left_out(dense: nn.Module, smaller: nn.Module) -> list[str]:
    """Name the blocks of the dense model that are an identity in the smaller one."""
    return [
        name
        for name, module in smaller.named_modules()
        if isinstance(module, nn.Identity) and any(True for _ in dense.get_submodule(name).parameters())
    ]


def _order(model: nn.Module, blocks: Sequence[str], picture: torch.Tensor) -> list[str]:
    """Return layers that mix channels as they start, and blocks as they end, in the order of one forward pass."""
    seen: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            note = functools.partial(_note, seen, name)
            if name in blocks:
                stack.callback(module.register_forward_hook(note).remove)
            elif can_unfold(module) and getattr(module, "groups", 1) == 1:
                stack.callback(module.register_forward_pre_hook(note).remove)
        model(picture)
    return seen


def _note(seen: list[str], name: str, *_: object) -> None:
    seen.append(name)


def _refit(
    name: str,
    bias: torch.Tensor | None,
    layer: nn.Conv2d | nn.Linear,
    moments: AsymmetricMoments,
    how: tuple[torch.Tensor | None, float],
) -> None:
    """Refit a layer in place; `bias` is the dense one's, `how` the outputs that are left of it and the damping."""
    rows, damping = how
    try:
        best = effective_weight(moments, weight_matrix(layer), damping, centred=True)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which has no public name
        raise SolverError(
            f"{name}: inputs cannot be told apart at damping {damping:g}", f"Raise the damping to {10 * damping:g}"
        ) from error
    shift = (moments.target_mean - (best @ moments.inputs.mean[:, :, None])[:, :, 0]).flatten()
    if bias is not None:
        own = bias.detach().double()
        shift = shift + (own if rows is None else own[rows])
    layer.weight = replace_parameter(best.reshape(layer.weight.shape), layer.weight)
    layer.bias = replace_parameter(shift, layer.weight)
