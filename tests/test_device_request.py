"""Tests of `taco.device.request`."""

from dataclasses import dataclass
from typing import Any

import pytest

from taco.device.request import BenchRequest, read_request
from taco.device.wire import RequestError


def test_only_the_models_are_needed():
    assert read_request({"models": {"dense": "/m/d.onnx"}}) == BenchRequest(models={"dense": "/m/d.onnx"})


def test_every_key_is_taken():
    full = {
        "models": {"a": "/a", "b": "/b"},
        "threads": 3,
        "rounds": 7,
        "round_ms": 12,
        "max_seconds": 1.5,
        "provider": "XExecutionProvider",
        "seed": 9,
        "steady": 0.05,
        "most_rounds": 21,
        "steady_s": 4,
        "least_iterations": 1,
    }
    assert read_request(full) == BenchRequest(
        {"a": "/a", "b": "/b"},
        threads=3,
        rounds=7,
        round_ms=12.0,
        max_seconds=1.5,
        provider="XExecutionProvider",
        seed=9,
        steady=0.05,
        most_rounds=21,
        steady_s=4.0,
        least_iterations=1,
    )


def test_a_model_may_have_a_provider_of_its_own():
    asked = read_request(
        {"models": {"a": "/a", "b": "/b"}, "provider": "XExecutionProvider", "providers": {"b": "CPU"}}
    )
    assert (asked.provider_of("a"), asked.provider_of("b")) == ("XExecutionProvider", "CPU")


def test_relative_models_start_at_the_given_folder(tmp_path):
    asked = read_request({"models": {"a": "sub/m.onnx", "b": "/abs.onnx"}}, str(tmp_path))
    assert asked.models == {"a": str(tmp_path / "sub/m.onnx"), "b": "/abs.onnx"}


def test_the_order_of_the_models_is_kept():
    assert list(read_request({"models": {"z": "/z", "a": "/a", "m": "/m"}}).models) == ["z", "a", "m"]


@dataclass(frozen=True)
class Wrong:
    name: str
    request: Any
    words: str


WRONG = [
    Wrong("list", [], "JSON object"),
    Wrong("none", None, "JSON object"),
    Wrong("no models", {}, "'models' must map"),
    Wrong("empty models", {"models": {}}, "'models' must map"),
    Wrong("providers list", {"models": {"a": "/a"}, "providers": ["CPU"]}, "'providers' must map"),
    Wrong("provider number", {"models": {"a": "/a"}, "providers": {"a": 3}}, "'providers' must map"),
    Wrong("provider of none", {"models": {"a": "/a"}, "providers": {"b": "CPU"}}, "'providers' names 'b'"),
    Wrong("models list", {"models": ["a"]}, "'models' must map"),
    Wrong("path number", {"models": {"dense": 3}}, "model 'dense' must have the path"),
    Wrong("path empty", {"models": {"dense": ""}}, "model 'dense' must have the path"),
    Wrong("path nul", {"models": {"dense": "a\0b"}}, "model 'dense' must have the path"),
    Wrong("unknown", {"models": {"a": "b"}, "round": 3}, "unknown keys: 'round'"),
    Wrong("threads 0", {"models": {"a": "b"}, "threads": 0}, "'threads' must be a whole number of at least 1"),
    Wrong("threads text", {"models": {"a": "b"}, "threads": "2"}, "'threads'"),
    Wrong("threads true", {"models": {"a": "b"}, "threads": True}, "'threads'"),
    Wrong("rounds 0", {"models": {"a": "b"}, "rounds": 0}, "'rounds'"),
    Wrong("rounds float", {"models": {"a": "b"}, "rounds": 2.5}, "'rounds'"),
    Wrong("rounds huge", {"models": {"a": "b"}, "rounds": 10**12}, "'rounds'"),
    Wrong("round_ms 0", {"models": {"a": "b"}, "round_ms": 0}, "'round_ms' must be a positive number"),
    Wrong("round_ms nan", {"models": {"a": "b"}, "round_ms": float("nan")}, "'round_ms'"),
    Wrong("max_seconds inf", {"models": {"a": "b"}, "max_seconds": float("inf")}, "'max_seconds'"),
    Wrong("max_seconds true", {"models": {"a": "b"}, "max_seconds": True}, "'max_seconds'"),
    Wrong("provider empty", {"models": {"a": "b"}, "provider": ""}, "'provider' must be a name"),
    Wrong("provider null", {"models": {"a": "b"}, "provider": None}, "'provider'"),
    Wrong("steady text", {"models": {"a": "b"}, "steady": "very"}, "'steady' must be a positive number"),
    Wrong("most_rounds 0", {"models": {"a": "b"}, "most_rounds": 0}, "'most_rounds'"),
    Wrong("steady_s text", {"models": {"a": "b"}, "steady_s": "long"}, "'steady_s' must be a positive number"),
    Wrong("least_iterations 0", {"models": {"a": "b"}, "least_iterations": 0}, "'least_iterations'"),
    Wrong("seed negative", {"models": {"a": "b"}, "seed": -1}, "'seed'"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_a_wrong_request_names_what_is_wrong(case):
    with pytest.raises(RequestError) as caught:
        read_request(case.request)
    assert case.words in str(caught.value)


def test_threads_null_is_the_default():
    assert read_request({"models": {"a": "b"}, "threads": None}).threads is None
