"""Every solver of ours keeps the contract that we ship."""

from __future__ import annotations

import pytest

from taco.solvers import Solver, load_solver
from taco.testing import SolverContract


class TestAdmm(SolverContract):
    refits = wide = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("admm")


class TestExactobs(SolverContract):
    refits = exact = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("exactobs")


class TestFastobc(SolverContract):
    refits = wide = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("fastobc")


class TestMagnitude(SolverContract):
    compensates = False
    wide = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("magnitude")


class TestMagnitudeRefit(SolverContract):
    refits = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("magnitude_refit")


class TestChannels(SolverContract):
    refits = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("channels")


class TestGptq(SolverContract):
    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("gptq")
