VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# One thread a worker: two workers with a thread for every core would be slower than one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

.PHONY: demo docs test test-oldest fuzz lint audit install bench gpu

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

# With the oldest release that pyproject.toml allows of each of its dependencies: uv's `lowest-direct`.
test-oldest: .venv-oldest/installed
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -n 2 --dist loadfile

.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet uv
	.venv-oldest/bin/uv pip install --quiet --resolution lowest-direct --python .venv-oldest/bin/python --editable '.[dev]'
	touch $@

# Twenty times as many odd files and command lines as `make test` tries, other ones at each call.
fuzz: install
	FUZZ_EXAMPLES=20000 OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_any_input.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site: warnings, such as a link that leads nowhere, are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

# Known vulnerabilities of all that is installed in .venv; it asks pypi.org, so it needs the network.
audit: install .venv-audit/installed
	PIPAPI_PYTHON_LOCATION=$(BIN)/python .venv-audit/bin/pip-audit --local --skip-editable --strict --progress-spinner off \
	|| { echo "audit: not passed; where no vulnerability is listed above, pypi.org could not be asked about all packages"; exit 1; }

.venv-audit/installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet pip-audit
	touch $@

# The chain and the iterations beside a plain loop and other libraries; leave the machine alone meanwhile.
bench: install
	$(BIN)/pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python -m profiling

# All that is to be measured on a GPU which is there for MINUTES, by the Python that has torch there; see
# docs/performance.md. IMAGES is an archive of CIFAR-10, ENCODER a checkpoint. It installs nothing.
MINUTES ?= 12
OUT ?= runs/gpu
gpu:
	PYTHONPATH=src:$$PYTHONPATH $(PYTHON) -m profiling --gpu --minutes $(MINUTES) --out $(OUT) \
	$(if $(IMAGES),--images $(IMAGES)) $(if $(ENCODER),--encoder $(ENCODER)) $(GPU_FLAGS)
