"""Contract suites that our own and third-party plug-ins subclass; they need pytest and hypothesis, once asked for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taco.testing.solver_contract import SolverContract

__all__ = ["SolverContract"]


def __getattr__(name: str) -> object:
    if name == "SolverContract":
        import pytest

        pytest.register_assert_rewrite("taco.testing.solver_contract")
        from taco.testing.solver_contract import SolverContract

        return SolverContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
