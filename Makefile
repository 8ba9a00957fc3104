# One command each; see CONTRIBUTING.md. PYTHON names the interpreter of a virtual environment with '.[cpu,dev]' dependencies.
PYTHON ?= python
BUILD ?= build/dev

.PHONY: build test lint format performance

build: ## in-place developer build: libraries go into tfcompress_ops/; seconds when one kernel file changes
	@test -f $(BUILD)/build.ninja || cmake -S . -B $(BUILD) -G Ninja -DTFCOMPRESS_IN_PLACE=ON -DPython_EXECUTABLE=$$($(PYTHON) -c 'import sys; print(sys.executable)') -Dpybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir)
	cmake --build $(BUILD)

test: build ## all Python tests
	$(PYTHON) -m pytest

lint: ## what CI checks
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

performance: build ## docs/performance.md, its plots and a page of the same, measured now: some 15 minutes on a quiet machine
	mkdir -p build
	$(PYTHON) -m tfcompress_ops.cli bench all --docs docs/performance.md --json build/performance.json --html build/performance.html
