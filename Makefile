# Two commands: `make demo` runs the main job without any service or key, `make test` runs what continuous integration runs.
# Both set up a virtual environment first and need only Linux and Python 3.11 or newer with its venv module.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python3.14; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# On a machine without an accelerator the CPU build of torch saves some gigabytes: give TORCH_INDEX the address of
# PyTorch's CPU wheels.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
WORKERS ?= 2
STAMP := $(VENV)/.installed
OLDEST := $(VENV)-oldest
OLDEST_STAMP := $(OLDEST)/.installed
OLDEST_TRITON := triton==3.6.0

# Each test and role process is one of several: more threads in each would only get in each other's way.
export OMP_NUM_THREADS ?= 1
# Triton 3.10 changes this default; pinned so that every version compiles alike.
export TRITON_DEFAULT_FP_FUSION ?= 1

.PHONY: demo test corpus oldest check docs clean

demo: $(STAMP)
	$(BIN)/kernelevolve optimize recsys:sampled_softmax --platform h100 --platform mi300x --effort quick --candidates 4

test: check oldest corpus
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations 15

# Every cheat and every odd but honest kernel that needs no device, and every guard left out in turn.
corpus: $(STAMP)
	$(BIN)/kernelevolve selftest --jobs $(WORKERS)
	$(BIN)/kernelevolve selftest --matrix --jobs $(WORKERS)

# What depends on Triton's insides, on the oldest supported Triton: the interpreter's conformance, recording, building.
oldest: $(OLDEST_STAMP)
	PYTHONPATH=src $(OLDEST)/bin/python -m pytest -n $(WORKERS) tests/interpret/test_interpreter*.py

check: $(STAMP)
	$(BIN)/ruff check src tests
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m kernelevolve.cli.reference > docs/cli.md

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or newer with venv (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

$(OLDEST_STAMP): pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(OLDEST)/bin/python -m pip install --quiet "$(OLDEST_TRITON)" numpy pytest pytest-xdist hypothesis
	touch $(OLDEST_STAMP)

clean:
	rm -rf $(VENV) $(OLDEST) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
