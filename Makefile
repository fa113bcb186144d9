# Every target sets up .venv with the locked versions first; only Python 3.11+ and a package registry are needed.
PYTHON ?= python3
MODEL ?= tests/data/models/qwen3moe-Q4_K_M.gguf
UV ?= $(firstword $(shell command -v uv) .venv/bin/uv)
LOCK = $(UV) pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" pyproject.toml requirements/build.in

.DEFAULT_GOAL := help
.PHONY: help bench test lint compile-all check-gpu lock clean setup-bench setup-test python

help:
	@echo "make bench        set up .venv and run the main job (MODEL=file.gguf, ARGS='--tokens 1,8')"
	@echo "make test         set up .venv, lint, and run all tests (GPU tests are skipped without a GPU)"
	@echo "make lint         ruff, ruff format, mypy"
	@echo "make compile-all  compile every kernel for every supported GPU; needs no GPU"
	@echo "make check-gpu    all that only a GPU can tell: its tests, every matrix with every plan, memory errors"
	@echo "make lock         renew requirements/*.txt from pyproject.toml; needs uv"
	@echo "make clean        remove .venv and everything made"

bench: setup-bench
	@.venv/bin/mmvq bench $(MODEL) $(ARGS)

test: lint
	.venv/bin/python -m pytest -n 3 --dist worksteal $(ARGS)

lint: setup-test
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

compile-all: setup-test
	.venv/bin/python scripts/compile_kernels.py $(ARGS)

check-gpu: setup-test
	.venv/bin/python -m scripts.check_gpu $(ARGS)

setup-bench setup-test: setup-%: python
	@$(PYTHON) -m scripts.setup_env $*

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is missing or older than Python 3.11" >&2; \
		echo "hint: name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 4; }

# dev.txt comes first: the others follow its versions, so that any two of them install together.
lock:
	$(LOCK) --extra fast --extra dev -o requirements/dev.txt
	for name in cuda12 cuda13; do \
		$(LOCK) --extra fast --extra $$name -c requirements/dev.txt -o requirements/$$name.txt || exit; done
	$(LOCK) --extra fast -c requirements/dev.txt -o requirements/cpu.txt

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mmvq_cli scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
