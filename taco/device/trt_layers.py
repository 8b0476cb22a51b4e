"""Whose time it is: the layers of an engine joined with the modules of the network, through the names of ONNX nodes.

An engine's layer often computes several nodes, and transformers collapse into a few (LESSONS 53, 54): a layer's time is
divided evenly over the modules that it computes, and what belongs to none is shown as unattributed.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple

from taco.device.trt_read import EngineLayer, LayerTime


class Attribution(NamedTuple):
    """Time by module.

    `by_module` maps a module to milliseconds; `unattributed_ms` belongs to no module; `shared_ms` is the part of
    `by_module` that comes from layers of several modules, and is only divided, not measured.
    """

    by_module: Dict[str, float]
    unattributed_ms: float
    shared_ms: float

    @property
    def total_ms(self) -> float:
        """All layers together."""
        return sum(self.by_module.values()) + self.unattributed_ms

    def unattributed_percent(self) -> float:
        """Share of the time that belongs to no module, 0-100."""
        return 100 * self.unattributed_ms / self.total_ms if self.total_ms else 0.0

    def to_json(self, units: Mapping[str, List[str]]) -> Dict[str, Any]:
        """Plain JSON values; the slowest module first, each with the units that decide its width."""
        total = self.total_ms or 1.0
        rows: List[Dict[str, Any]] = [
            {"module": module, "ms": ms, "percent": 100 * ms / total, "units": units.get(module, [])}
            for module, ms in sorted(self.by_module.items(), key=lambda item: -item[1])
        ]
        return {
            "modules": rows,
            "total_ms": self.total_ms,
            "unattributed_percent": self.unattributed_percent(),
            "shared_percent": 100 * self.shared_ms / total,
        }


def attribute(times: List[LayerTime], layers: Mapping[str, EngineLayer], owners: Mapping[str, str]) -> Attribution:
    """Divide the time of an engine's layers over modules.

    Args:
        times: From the profile.
        layers: What is known of each layer, by name.
        owners: ONNX node -> module of the network.
    """
    by_module: Dict[str, float] = {}
    nobody = shared = 0.0
    for time in times:
        layer = layers.get(time.name)
        nodes = layer.nodes if layer is not None else ()
        modules = sorted({owners[node] for node in nodes if node in owners})
        if not modules:
            nobody += time.ms
            continue
        for module in modules:
            by_module[module] = by_module.get(module, 0.0) + time.ms / len(modules)
        shared += time.ms if len(modules) > 1 else 0.0
    return Attribution(by_module, nobody, shared)
