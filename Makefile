# The commands of the README, of CI and of the Dockerfile: one place says how the project is installed.
PYTHON ?= python3
VENV ?= .venv
EXTRA ?= cpu
SERVE ?= serve
BIN := $(VENV)/bin

.PHONY: run test check bench gpu-check install install-train install-serve images clean

run: install
	$(BIN)/cpd-pipeline run pipeline.yaml

# A file's tests stay in one process, because they share what is slow to make; those that measure time run alone.
test: install
	$(BIN)/pytest -m "not alone" --numprocesses auto --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest -m alone

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for folder in benchmarks/*/; do \
	    (cd $$folder && MYPYPATH=. MYPY_CACHE_DIR=$(CURDIR)/.mypy_cache $(abspath $(BIN))/mypy *.py) || exit 1; \
	done
	$(BIN)/lint-imports

# The quick benchmarks, on the models of a finished `make run`; each says in its file how to run it longer.
bench: install
	$(BIN)/python benchmarks/distillation/step_cost.py
	$(BIN)/python benchmarks/export/run.py runs/motion
	$(BIN)/python benchmarks/serve/first_answer.py runs/motion

# The GPU path in one table, where there is an NVIDIA GPU; in a CUDA environment, made where there is none yet.
gpu-check: VENV := $(if $(wildcard $(VENV)/.installed-cuda-dev),$(VENV),.venv-cuda)
gpu-check:
	@$(PYTHON) -c "import ctypes; ctypes.CDLL('libcuda.so.1')" 2>/dev/null || \
	    { echo "no GPU to measure: this machine has no NVIDIA driver (libcuda.so.1)" >&2; exit 1; }
	$(MAKE) install EXTRA=cuda VENV=$(VENV)
	$(VENV)/bin/python benchmarks/gpu/run.py

# What the README shows; needs a finished `make run`, and chromium.
images:
	$(BIN)/python docs/images/make_images.py runs/motion/report.html

# Everything to work on the project; EXTRA=cuda on a machine with an NVIDIA GPU.
install: $(VENV)/.installed-$(EXTRA)-dev

# The whole pipeline, and nothing to test it with.
install-train: $(VENV)/.installed-$(EXTRA)

# What labels clips on a device, without torch; SERVE=serve-cuda for a GPU. Not editable: the sources need not stay.
install-serve: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet '.[$(SERVE)]'

# A marker newer than pyproject.toml means that what it asks for is installed.
$(VENV)/.installed-$(EXTRA)-dev: $(VENV)/.installed-$(EXTRA)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA),dev]'
	touch $@

$(VENV)/.installed-$(EXTRA): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA)]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf $(VENV) runs
