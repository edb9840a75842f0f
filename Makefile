PYTHON ?= python3
VENV ?= .venv
TORCH ?=

.DEFAULT_GOAL := help
.PHONY: help env demo demo-seg test test-all test-faults lint

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18
	@echo "PYTHON=, VENV= and TORCH= choose the interpreter, the folder of the environment and"
	@echo "pip's arguments for torch, for instance make env TORCH='torch==2.4.1'"

env:  ## set up the environment in .venv; again: nothing
	@$(PYTHON) requirements/install.py "$(VENV)" --torch "$(TORCH)"

demo: env  ## set up, draw a data set, learn it and show the outcome in work_dirs/demo
	"$(VENV)/bin/python" tools/demo.py

demo-seg: env  ## the same for segmentation, in work_dirs/demo-seg
	"$(VENV)/bin/python" tools/demo.py semfpn --work-dir work_dirs/demo-seg

test: env  ## set up and run the tests
	"$(VENV)/bin/python" -m pytest -m "not slow"

test-all: env  ## the same with the long grids
	"$(VENV)/bin/python" -m pytest

test-faults: env  ## kill trainings again and again, and fill disks
	"$(VENV)/bin/python" -m pytest -m faults

lint: env  ## check style and format
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
