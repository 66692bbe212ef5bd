# Everything a person types. `make help` lists it.

SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
AZURE_CLI_VERSION := 2.91.0
AZCOPY_VERSION := 10.32.2
# The person's own uv, else one that belongs to this folder.
UV := $(shell { uv --version >/dev/null 2>&1 && command -v uv; } || echo .uv/bin/uv)
INSTALL_UV := pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/uv.txt
LOCK := $(UV) pip compile --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet
QUESTION ?= What is a LoRA adapter?

export UV_PYTHON_DOWNLOADS := never
# What a shell may forbid: the processes started here, hundreds in the suite, import the same modules, and each would compile
# them anew for a second or for ten. (Into a release nothing is written all the same: inference/start.py.)
unexport PYTHONDONTWRITEBYTECODE
# The tests of workflows and of start.sh type `uv` as a runner and an image do.
export PATH := $(abspath .uv/bin):$(PATH)

# A key or a mark whose recipe failed half-way is no key and no mark.
.DELETE_ON_ERROR:

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: local
local: .local/api-key $(VENV)/.installed ## set everything up on this machine, ask the model a question
	@$(BIN)/python -m infra.emulator.background start
	@$(BIN)/python -m infra.emulator.finetuning
	@INFERENCE_API_KEY="$$(cat .local/api-key)"; export INFERENCE_API_KEY; \
	 $(BIN)/inferops what-if local && $(BIN)/inferops provision local && $(BIN)/inferops deploy local && \
	 $(BIN)/inferops chat local "$(QUESTION)"
	@$(BIN)/python -m infra.emulator.background tell

.PHONY: local-down
local-down: ## end everything that `make local` started (its data stays in .local)
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m infra.emulator.background stop; else echo "Nothing runs: there is no $(VENV)."; fi

.PHONY: test
test: $(VENV)/.installed ## the whole suite, by three workers: half of a test is waiting for processes
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGUMENTS)

.PHONY: peers
peers: .local/azure-cli/.installed .local/azcopy/.installed ## the Azure CLI and azcopy, which the suite runs where they are

.PHONY: check
check: $(VENV)/.installed ## style, types, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy scripts infra inference tests
	$(BIN)/zizmor --offline --quiet .github

.PHONY: lock
lock: $(UV) ## make the locks in requirements/ anew from pyproject.toml
	$(LOCK) pyproject.toml -o requirements/cli.txt
	$(LOCK) --group inference -c requirements/cli.txt -o requirements/inference.txt
	$(LOCK) --group quantization --no-deps -c requirements/inference.txt -o requirements/quantization.txt
	$(LOCK) pyproject.toml --group dev -c requirements/cli.txt -c requirements/inference.txt -o requirements/dev.txt
	echo uv==$(UV_VERSION) | $(LOCK) - -o requirements/uv.txt

.PHONY: template
template: $(VENV)/.installed ## compile infra/provision/inference.bicep (needs `bicep` on PATH)
	@$(BIN)/python -m scripts.template

.local/api-key:
	@mkdir -p .local && umask 077 && $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(24))' > $@

# In an environment of its own: its dependencies are not the project's.
.local/azure-cli/.installed: Makefile | $(UV)
	@[ -x .local/azure-cli/bin/python ] || $(UV) venv --quiet --python $(PYTHON) .local/azure-cli
	@$(UV) pip install --quiet --python .local/azure-cli/bin/python azure-cli==$(AZURE_CLI_VERSION)
	@touch $@

.local/azcopy/.installed: Makefile
	@mkdir -p .local/azcopy
	@npm install --silent --prefix .local/azcopy @azure-tools/azcopy-linux@$(AZCOPY_VERSION)
	@chmod +x .local/azcopy/node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64
	@touch $@

# The copy of inference.txt tells a replica on this machine which lock its Python was installed from (inference/start.sh).
$(VENV)/.installed: requirements/dev.txt pyproject.toml | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is " + sys.version.split()[0] + ". Another one: make PYTHON=python3.12 ...")'
	@echo "Installing the dependencies as locked into $(VENV) (about 6 GB with torch; well under a minute on a fast network) ..."
	@[ -x $(BIN)/python ] || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@cp requirements/inference.txt $(VENV)/inference.txt
	@touch $@

.uv/bin/uv:
	@echo "Bringing uv into .uv, as locked ..."
	@$(PYTHON) -m venv .uv 2>/dev/null && .uv/bin/python -m $(INSTALL_UV) \
	 || { rm -rf .uv; $(PYTHON) -m $(INSTALL_UV) --ignore-installed --prefix .uv; } \
	 || { rm -rf .uv; echo "uv could not be installed: the lines above say why. Where $(PYTHON) has neither venv nor pip, install one (Debian: apt install python3-venv) or uv itself." >&2; exit 1; }
