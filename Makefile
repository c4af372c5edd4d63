VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# One thread a worker: two workers with a thread for every core would be slower than one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

.PHONY: demo test lint install bench

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	rm -rf runs/demo
	test -e runs/classifier_digits/last.ckpt || $(BIN)/ebmzoo fit --config configs/classifier_digits.yaml
	$(BIN)/ebmzoo fit --config configs/liebm_digits.yaml --run_dir runs/demo
	$(BIN)/ebmzoo test --ckpt_path runs/demo/last.ckpt
	@echo
	@echo "samples:   runs/demo/test/samples.png (with MCMC), runs/demo/test/samples_no_mcmc.png, runs/demo/test/real.png"
	@echo "scorecard: the table above; its figures with their protocol are runs/demo/test/*.json"

test: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The chain and the iterations beside a plain loop and other libraries; leave the machine alone meanwhile.
bench: install
	$(BIN)/pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python -m benchmarks
