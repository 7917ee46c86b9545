# make demo: a small data set, two minutes of training, a gallery.   make test: the test suite.

PYTHON ?= python3
PY := .venv/bin/python
DEMO := --dataroot datasets/demo --name demo --model pix2pix --direction BtoA \
	--load_size 128 --crop_size 128

# pip takes the constraints of a package's own build from PIP_CONSTRAINT (old) or PIP_BUILD_CONSTRAINT (new).
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo test lint clean

.venv/installed: constraints.txt $(wildcard requirements*.txt)
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

datasets/demo: .venv/installed
	$(PY) datasets/make_demo_dataset.py --out $@

demo: .venv/installed datasets/demo
	$(PY) train.py $(DEMO) --netG unet_128 --ngf 32 --ndf 32 --n_epochs 4 --n_epochs_decay 3
	$(PY) test.py $(DEMO)

test: .venv/installed
	$(PY) -m pytest -q -n 2 --dist worksteal --durations=10

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:
	rm -rf .venv datasets/demo checkpoints/demo results/demo
