# make demo and make test need nothing but Python 3.11 or newer; everything lands in .venv and runs/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# INSTALLER=uv uses `uv pip` over the same files
INSTALLER ?= pip
ifeq ($(INSTALLER),uv)
INSTALL := uv pip install --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo test coverage check audit wheel format bench gpu gpu-pack clean

demo: $(VENV)/.installed
	$(BIN)/nano-llada demo

test: check wheel
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

# the same tests, traced: half as long again
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=95 -q

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r src scripts

# known weaknesses of the pinned packages: asks the vulnerability database of PyPI, so it needs the network
audit: $(VENV)/.installed-dev
	$(INSTALL) -c constraints.txt pip-audit
	$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip

# builds the wheel and uses it as a stranger would: installed into an empty environment, outside of the checkout
wheel:
	PYTHON=$(PYTHON) INSTALLER=$(INSTALLER) sh scripts/try_wheel.sh

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make bench DATA=file.jsonl.gz TOKENIZER=folder
bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.training --data $(DATA) --tokenizer $(TOKENIZER)
	$(BIN)/python -m benchmarks.generation

# make gpu-pack [DATA="FILE ..."], carry the checkout to a machine with a CUDA device, make gpu there: 12 minutes
gpu-pack: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.gpu pack --out build/gpu-pack $(if $(DATA),--data $(DATA))

gpu:
	$(PYTHON) -m benchmarks.gpu run --pack build/gpu-pack --out docs/experiments/gpu

# PyTorch comes first and pinned: an unpinned one may bring gigabytes of CUDA packages
$(VENV)/.torch: constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(INSTALL) -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .coverage*
