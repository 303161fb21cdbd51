# Memory that is handed back is faulted in again at each step: glibc, told before Python starts, keeps it.
export MALLOC_MMAP_THRESHOLD_ = 4294967296
export MALLOC_TRIM_THRESHOLD_ = 17179869184
export MALLOC_TOP_PAD_ = 268435456

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo suspect test lint acceptance dashboard clean

help: ## list these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: .venv/.done ## make .venv with the locked versions

.venv/.done: requirements.lock
	test -e $@ || $(PYTHON) -m venv --clear .venv # afresh, unless it was finished once
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --python $(BIN)/python requirements.lock
	touch $@

demo: setup ## WaNet on real handwritten digits, purified by UniBP with printed ones
	$(BIN)/python run.py experiment=demo

suspect: setup ## a backdoored model that others might have handed to you, in outputs/suspect
	$(BIN)/python -m benchmarks.suspect outputs/suspect

test: setup ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

acceptance: setup ## every defense beside its controls on mnist, three seeds; resumable, hours on two cores
	$(BIN)/python -m benchmarks.acceptance --table defenses

dashboard: setup ## a W&B workspace over your runs: make dashboard ENTITY=me
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints requirements.lock ".[dashboard]"
	$(BIN)/python -m backdoor_lab.tracking.dashboard --entity "$(ENTITY)"

clean: ## forget results and victims
	rm -rf outputs/runs outputs/victims outputs/reports outputs/grids .cache
