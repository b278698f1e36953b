# Two commands: `make demo` runs the main job without any service or key, `make test` runs what continuous integration runs.
# Both set up a virtual environment first and need only Linux and Python 3.11 or newer with its venv module.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python3.14; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# On a machine without an accelerator the CPU build of torch saves some gigabytes:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
WORKERS ?= 2
STAMP := $(VENV)/.installed

# Each test and role process is one of several: more threads in each would only get in each other's way.
export OMP_NUM_THREADS ?= 1
# Triton 3.10 changes this default; pinned so that every version compiles alike.
export TRITON_DEFAULT_FP_FUSION ?= 1

.PHONY: demo test check docs clean

demo: $(STAMP)
	$(BIN)/kernelevolve optimize recsys:rms_norm_residual --platform h100 --platform mi300x --effort quick --candidates 3

test: check
	$(BIN)/python -m pytest -n $(WORKERS)

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

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
