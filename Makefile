# The same commands for people and CI. `make` lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
QUANT := $(CURDIR)/.venv/quant
# Compiled once: where PYTHONDONTWRITEBYTECODE is set, each process of a test would compile afina anew.
COMPILE := $(BIN)/python -m compileall -q src
# Two workers of one thread each: more threads than idle cores take many times as long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal --durations 12

.PHONY: help install wheel study serve test test-slow test-quant test-gpu clients endurance errors docs bench clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY) ## make the environment .venv and install afina in it

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("afina needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(READY)

wheel: $(READY) ## build a wheel of this checkout into dist/
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

study: $(READY) ## run the quickstart comparison; results in results/quickstart
	$(BIN)/afina study quickstart

serve: $(READY) ## train four small classifiers and a text task for two clients, and answer for them over HTTP
	PATH="$(CURDIR)/$(BIN):$$PATH" examples/serve.sh

test: $(READY) ## format, lint and type checks, and the tests but the slow ones
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(COMPILE)
	$(PYTEST) -m 'not slow and not endurance and not bench'

test-slow: $(READY) ## the slow tests, which take seconds each
	$(COMPILE)
	$(PYTEST) -m 'slow and not endurance and not bench'

# Apart from the environment: with bitsandbytes in it, every process that imports peft takes two seconds longer.
test-quant: $(READY) ## the tests of nf4, with the extra `quant` in a directory of its own
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(QUANT) \
		"$$($(BIN)/python -c 'import tomllib; [need] = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["quant"]; print(need)')"
	PYTHONPATH=$(QUANT) OMP_NUM_THREADS=1 $(BIN)/pytest -k nf4 tests/models/kernels/test_nf4.py \
		tests/models/test_nf4_interop.py tests/models/test_copies.py tests/training/test_sharded.py

test-gpu: $(READY) ## the tests that need a CUDA device, in three minutes, on a machine that has one
	$(COMPILE)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m gpu

# Apart from the environment: the requirements of the clients exclude each other.
clients: $(READY) ## clients that others wrote ask a server; each is installed in a directory of its own (ONLY=NAME...)
	OMP_NUM_THREADS=1 $(BIN)/python tests/clients/run.py $(ONLY)

endurance: $(READY) ## stores under kills and contention, for minutes
	$(PYTEST) -m endurance

errors: $(READY) ## write docs/reference/errors.md anew, after an error was added or reworded
	$(BIN)/python tests/errors_page.py

docs: $(READY) ## build the site of the docs in site/; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY) ## test the benchmarks, and measure training speed and memory beside what people use today
	$(COMPILE)
	$(PYTEST) -m bench
	$(BIN)/python benchmarks/train_step.py

clean: ## remove the environment, the results and the site
	rm -rf .venv results site
