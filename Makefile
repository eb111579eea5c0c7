# Everything runs in .venv, made from requirements.lock: `make demo`, `make test`, `make lint`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format lock clean gpu-results

demo: .venv/ready
	$(BIN)/python scripts/demo.py --overwrite

test: .venv/ready
	$(BIN)/python -m pytest -n auto

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The environment is made again when the locked versions or the packaging change.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# What there is to measure on a GPU or a TPU, on the one that jax finds: first put jax for it into
# .venv, as in `.venv/bin/python -m pip install -U "jax[cuda13]"`.
# CIFAR10: options that name the data. OUT: folder for the JSON files.
CIFAR10 ?= --data cifar10
OUT ?= gpu-results
FAST := $(CIFAR10) --protocol p-all --validation 0 --method orthohash --bits 48 --recipe scratch \
	--precision bfloat16 --batch-size 512 --learning-rate 0.4 --augment crop-flip-cutout --mirror
gpu-results: .venv/ready
	mkdir -p $(OUT)
	$(BIN)/python scripts/benchmark_accelerator.py --out $(OUT)/accelerator.json
	$(BIN)/python scripts/benchmark_encoding.py --out $(OUT)/encoding-32.json
	$(BIN)/python scripts/benchmark_encoding.py --network alexnet --size 224 --items 4096 \
		--memory-items 0 --out $(OUT)/encoding-224.json
	for epochs in 10 20 40; do \
		$(BIN)/python scripts/curve.py $(FAST) --network resnet --epochs $$epochs --eval-every 5 \
			--out $(OUT)/curve-resnet-$$epochs.json || exit 1; \
	done
	$(BIN)/python scripts/curve.py $(FAST) --network resnet-large --epochs 60 --eval-every 10 \
		--out $(OUT)/curve-resnet-large-60.json
	for bits in 12 24 36 48; do \
		$(BIN)/python scripts/train.py $(CIFAR10) --protocol p-dsh --method dsh --network dsh \
			--bits $$bits --validation 0 --run $(OUT)/dsh-$$bits --overwrite && \
		$(BIN)/python scripts/evaluate.py --run $(OUT)/dsh-$$bits || exit 1; \
	done

# Locks the versions for every supported Python at once, by environment markers.
lock: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --no-header \
		--extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
