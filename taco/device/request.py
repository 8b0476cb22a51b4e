"""The benchmark request: what may be asked, its defaults, and what is wrong with a bad one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from taco.device.wire import RequestError

LEAST_ITERATIONS = 3
KEYS = (
    *("models", "threads", "rounds", "round_ms", "max_seconds", "provider", "providers", "seed"),
    *("idle_s", "sustained_s", "focus", "sweep", "steady", "most_rounds", "steady_s", "least_iterations"),
)


@dataclass(frozen=True)
class BenchRequest:
    """A checked benchmark request.

    Attributes:
        models: Name -> absolute path, in the order of the first round.
        threads: Threads a model; None is all physical cores.
        rounds: Interleaved rounds.
        round_ms: Time that each model gets in a round, milliseconds.
        max_seconds: Stop before a round that would end later than this.
        provider: ONNX Runtime execution provider, or OpenVINO device, of every model that `providers` does not name.
        seed: Seed of the input noise.
        providers: Model -> its own provider.
        idle_s: Pause before the first run after idling, seconds; 0 measures none.
        sustained_s: How long one model works without a pause, seconds; 0 measures none.
        focus: The model that works so, and that is run after a pause; None is the last one.
        sweep: Other numbers of threads to measure.
        steady: Rounds go on, `rounds` more at a time, until the interval of every model's time over the first one's is
            at most this share of it wide; 0 asks for no more rounds.
        most_rounds: They end there whatever the intervals are.
        steady_s: Nor do they go on where they would take longer than this, seconds; None is no limit.
        least_iterations: Runs of a model in a round at least, however long one takes.
    """

    models: Dict[str, str]
    threads: Optional[int] = None
    rounds: int = 25
    round_ms: float = 40.0
    max_seconds: float = 60.0
    provider: str = "CPUExecutionProvider"
    seed: int = 0
    providers: Dict[str, str] = field(default_factory=dict)
    idle_s: float = 0.0
    sustained_s: float = 0.0
    focus: Optional[str] = None
    sweep: Tuple[int, ...] = ()
    steady: float = 0.0
    most_rounds: int = 1
    steady_s: Optional[float] = None
    least_iterations: int = LEAST_ITERATIONS

    def provider_of(self, name: str) -> str:
        """The provider of one model."""
        return self.providers.get(name, self.provider)


def read_request(request: Any, folder: str = ".") -> BenchRequest:
    """Check a request.

    Args:
        request: What the JSON held.
        folder: Relative model paths start here.

    Raises:
        RequestError: A key is missing, unknown or out of range; the message names it.
    """
    if not isinstance(request, dict):
        raise RequestError("the request must be a JSON object", _example())
    unknown = sorted(set(request) - set(KEYS))
    if unknown:
        raise RequestError(f"the request has unknown keys: {', '.join(map(repr, unknown))}", _example())
    models = _models(request.get("models"), folder)
    return BenchRequest(
        models=models,
        threads=None if request.get("threads") is None else _whole(request, "threads", 1),
        rounds=_whole(request, "rounds", 1),
        round_ms=_positive(request, "round_ms"),
        max_seconds=_positive(request, "max_seconds"),
        provider=_word(request, "provider"),
        seed=_whole(request, "seed", 0),
        providers=_providers(request.get("providers", {}), models),
        idle_s=_or_zero(request, "idle_s"),
        sustained_s=_or_zero(request, "sustained_s"),
        focus=_model_name(request.get("focus"), models),
        sweep=tuple(_whole({"sweep": count}, "sweep", 1) for count in _list(request.get("sweep", []))),
        steady=_or_zero(request, "steady"),
        most_rounds=_whole(request, "most_rounds", 1),
        steady_s=None if request.get("steady_s") is None else _or_zero(request, "steady_s"),
        least_iterations=_whole(request, "least_iterations", 1),
    )


def _example() -> str:
    return 'An example: {"models": {"dense": "dense.onnx", "compressed": "model.onnx"}, "rounds": 25}'


def _models(models: Any, folder: str) -> Dict[str, str]:
    if not isinstance(models, dict) or not models:
        raise RequestError("'models' must map at least one name to a model file", _example())
    bad = [name for name, path in models.items() if not isinstance(path, str) or not path or "\0" in path]
    if bad:
        raise RequestError(f"model {bad[0]!r} must have the path of a file", _example())
    return {name: os.path.abspath(os.path.join(folder, path)) for name, path in models.items()}


def _providers(providers: Any, models: Mapping[str, str]) -> Dict[str, str]:
    if not isinstance(providers, dict) or not all(isinstance(p, str) and p for p in providers.values()):
        raise RequestError("'providers' must map names of models to names of providers", _example())
    unknown = sorted(set(providers) - set(models))
    if unknown:
        raise RequestError(f"'providers' names {unknown[0]!r}, which is no model of the request")
    return dict(providers)


def _whole(request: Mapping[str, Any], key: str, least: int) -> int:
    value = request.get(key, getattr(BenchRequest, key))
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise RequestError(f"{key!r} must be a whole number of at least {least}, not {value!r}")
    return value


def _positive(request: Mapping[str, Any], key: str) -> float:
    value = request.get(key, getattr(BenchRequest, key))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise RequestError(f"{key!r} must be a positive number, not {value!r}")
    return float(value)


def _or_zero(request: Mapping[str, Any], key: str) -> float:
    value = request.get(key, 0)
    return 0.0 if value == 0 and not isinstance(value, bool) else _positive(request, key)


def _model_name(name: Any, models: Mapping[str, str]) -> Optional[str]:
    if name is not None and (not isinstance(name, str) or name not in models):
        raise RequestError(f"'focus' names {name!r}, which is no model of the request")
    return name


def _list(value: Any) -> List[Any]:
    if not isinstance(value, (list, tuple)) or len(value) > 64:
        raise RequestError(f"'sweep' must be a short list of numbers of threads, not {value!r}")
    return list(value)


def _word(request: Mapping[str, Any], key: str) -> str:
    value = request.get(key, getattr(BenchRequest, key))
    if not isinstance(value, str) or not value:
        raise RequestError(f"{key!r} must be a name, not {value!r}")
    return value
