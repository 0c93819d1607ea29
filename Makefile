# `make demo` and `make test` install what is missing first (apt for system tools, pip into .venv).
PY := .venv/bin/python
COMPONENTS := cli gateway manager agent overlay daemon proto common
.PHONY: demo demo-down test check bench bench-store proto setup format

setup:
	@deploy/setup.sh

demo: setup
	@$(PY) deploy/demo.py

demo-down:
	@deploy/lab/lab --name demo down

test: setup
	@$(PY) -m pytest tests

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --config pyproject.toml
	deploy/gen-proto.sh --check

bench: setup
	@$(PY) benchmarks/main_job.py

bench-store: setup
	@$(PY) benchmarks/store.py

proto: setup
	deploy/gen-proto.sh

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
