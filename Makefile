# make demo | figures | test | test-all | trust | bench | report | counts | docs | lint | doctor | wheel | asan | tsan |
# clean;
# each makes .venv and builds the kernels first, those for CUDA if there is a GPU. make PYTHON=python3.12 takes
# another Python, from 3.11 to 3.14.
PYTHON ?= python3
VENV ?= .venv
REQUIREMENTS ?= requirements/dev.txt
PYTEST_FLAGS ?= -n 2

BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo figures test test-all trust bench report counts docs lint wheel doctor asan tsan clean
.DELETE_ON_ERROR:

demo: $(VENV)/.built
	$(BIN)/python examples/demo.py $(DEMO_FLAGS)

figures: $(VENV)/.built
	$(BIN)/python -m examples.figures --page docs/science.md $(FIGURES_FLAGS)

# All but the long runs of the same tests, which test-all has.
test: $(VENV)/.built
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m "not slow"

test-all: $(VENV)/.built
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

# docs/trust.md, from short runs and from the records of long ones.
trust: $(VENV)/.built
	$(BIN)/python -m tests.trust

bench: $(VENV)/.built
	mkdir -p build
	$(BIN)/python -m pytest benchmarks --benchmark-quiet --benchmark-json=build/benchmarks.json $(BENCH_FLAGS)

report: $(VENV)/.built
	$(BIN)/python -m benchmarks.report build/benchmarks.json --page docs/performance.md

counts: $(VENV)/.built
	$(BIN)/python -m benchmarks.instruction_counts $(COUNTS_FLAGS)

docs: $(VENV)/.built
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env --builder html \
		--doctree-dir build/doctrees docs build/site

lint: $(VENV)/.built
	PATH="$(abspath $(BIN)):$$PATH" pre-commit run --all-files

# For publication; with CUDA kernels unless FASTBLUR_CUDA=0.
wheel:
	.ci/wheel $(PYTHON)

doctor: $(VENV)/.built
	$(BIN)/python -m fastblur

asan tsan: $(VENV)/.installed
	PYTHON=$(BIN)/python .ci/sanitize $@

$(VENV)/.installed: $(REQUIREMENTS) $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 14) or sys.exit("fastblur needs Python \
	3.11 to 3.14, and $(PYTHON) is {}.{}: make PYTHON=python3.12, say".format(*v))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement $(REQUIREMENTS)
	touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

clean:
	rm -rf .venv build dist fastblur/_C*.so fastblur.egg-info
