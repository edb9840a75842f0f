PYTHON ?= python3
VENV ?= .venv
VENV_CLS ?= .venv-cls
TORCH ?=
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env demo demo-seg test test-all test-faults lint docs env-cls demo-cls test-cls

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22
	@echo "PYTHON=, VENV= and TORCH= choose the interpreter, the folder of the environment and"
	@echo "pip's arguments for torch, for instance make env TORCH='torch==2.4.1'; JOBS= is the"
	@echo "number of processes that run the tests"

env:  ## set up the environment in .venv; again: nothing
	@$(PYTHON) requirements/install.py "$(VENV)" --torch "$(TORCH)"

demo: env  ## set up, draw a data set, learn it and show the outcome in work_dirs/demo
	"$(VENV)/bin/python" tools/demo.py

demo-seg: env  ## the same for segmentation, in work_dirs/demo-seg
	"$(VENV)/bin/python" tools/demo.py semfpn --work-dir work_dirs/demo-seg

# Several processes of one thread each, a file of tests to each in turn.
PYTEST = OMP_NUM_THREADS=1 "$(VENV)/bin/python" -m pytest -n $(JOBS) --dist loadfile

test: env  ## set up and run the tests
	$(PYTEST) -m "not slow"

test-all: env  ## the same with the long grids
	$(PYTEST)

test-faults: env  ## kill trainings again and again, and fill disks
	"$(VENV)/bin/python" -m pytest -m faults

lint: env  ## check style, format and spelling
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
	"$(VENV)/bin/codespell"

docs: env  ## build the documentation into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 "$(VENV)/bin/mkdocs" build --strict --quiet

# Classification has an environment of its own: mmpretrain needs torchvision, which is built for one
# torch only.
env-cls:  ## set up the environment of classification in .venv-cls; again: nothing
	@$(PYTHON) requirements/install.py "$(VENV_CLS)" --set cls --torch "$(TORCH)"

demo-cls: env-cls  ## learn to classify, with ResT-Lite and RMT-T, in work_dirs/demo-cls_*
	"$(VENV_CLS)/bin/python" tools/demo.py cls_rest_lite
	"$(VENV_CLS)/bin/python" tools/demo.py cls_rmt_t

# The tests that need neither mmdet nor mmseg, on a second release of torch.
test-cls: env-cls  ## set up and run the tests of classification, and what needs no detector
	OMP_NUM_THREADS=1 "$(VENV_CLS)/bin/python" -m pytest -n $(JOBS) --dist loadfile -m "not slow" \
		tests/classification tests/models tests/checkpoint tests/ops/test_emsa.py \
		tests/ops/test_masa.py --ignore tests/models/test_float32.py
