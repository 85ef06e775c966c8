# The commands of the README, of CI and of the Dockerfile: one place says how the project is installed.
PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
BIN := $(VENV)/bin

.PHONY: run test check bench install clean

run: install
	$(BIN)/cpd-pipeline run pipeline.yaml

test: install
	$(BIN)/pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed-$(EXTRA)

# A marker newer than pyproject.toml means that what it asks for is installed.
$(VENV)/.installed-$(EXTRA): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA),dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
