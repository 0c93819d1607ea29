# `make demo` and `make test` install what is missing first (apt for system tools, pip into .venv).
PY := .venv/bin/python
COMPONENTS := cli gateway manager agent overlay daemon proto common
.PHONY: demo demo-down test sim mutants chaos check bench proto setup format

setup:
	@deploy/setup.sh

demo: setup
	@$(PY) deploy/demo.py

demo-down:
	@deploy/lab/lab --name demo down

test: setup
	@$(PY) -m pytest tests

# make sim SEEDS=1000 [FIRST=1]: as many simulated clusters; a seed that fails says how to run it again.
SEEDS ?= 100
FIRST ?= 1
sim: setup
	@$(PY) tests/sim/run.py --seeds $(SEEDS) --first $(FIRST)

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --config pyproject.toml
	deploy/gen-proto.sh --check

# make mutants [SIM=50]: with SIM each safeguard is also taken out of as many simulated clusters.
mutants: setup
	@$(PY) tests/mutants/run.py $(if $(SIM),--sim $(SIM)) $(NAMES)

chaos: setup
	@$(PY) tests/chaos/run.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

bench: setup
	@$(PY) benchmarks/main_job.py

proto: setup
	deploy/gen-proto.sh

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
