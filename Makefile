# One command each; see CONTRIBUTING.md. PYTHON names the interpreter of a virtual environment with '.[cpu,dev]' dependencies.
PYTHON ?= python
BUILD ?= build/dev

.PHONY: build test wheel docs lint format performance

build: ## in-place developer build: libraries go into tfcompress_ops/; seconds when one kernel file changes
	@test -f $(BUILD)/build.ninja || cmake -S . -B $(BUILD) -G Ninja -DTFCOMPRESS_IN_PLACE=ON -DPython_EXECUTABLE=$$($(PYTHON) -c 'import sys; print(sys.executable)') -Dpybind11_DIR=$$($(PYTHON) -m pybind11 --cmakedir)
	cmake --build $(BUILD)

test: build ## all tests
	$(PYTHON) -m pytest -n 2 tests

wheel: ## dist/: the sdist, and a wheel made from it that any Linux of its manylinux tag takes; TFCOMPRESS_CUDA=ON for one with GPU kernels
	rm -rf build/wheel
	$(PYTHON) -m build --outdir build/wheel
	mkdir -p dist && cp build/wheel/*.tar.gz dist
	$(PYTHON) -m auditwheel repair --exclude 'libtensorflow*' --wheel-dir dist build/wheel/*.whl
	$(PYTHON) tests/smoke/check_file.py dist/*.whl

docs: ## the documentation, in build/site
	$(PYTHON) -m mkdocs build --strict --site-dir build/site

lint: ## what CI checks
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

performance: build ## docs/performance.md, its plots and a page of the same, measured now: some 15 minutes on a quiet machine
	mkdir -p build
	$(PYTHON) -m tfcompress_command bench all --docs docs/performance.md --json build/performance.json --html build/performance.html
