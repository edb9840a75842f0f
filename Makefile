VENV ?= .venv
JOBS ?= 2

# The environment records its options; other options create it again.
recorded = $(shell sed -n 's/^$(1): //p' "$(VENV)/ready" 2>/dev/null)
PYTHON ?= $(or $(call recorded,PYTHON),python3)
TORCH ?= $(or $(call recorded,TORCH),-r requirements/torch.txt)
OPERATORS ?= $(or $(call recorded,OPERATORS),torchvision)

ifneq ($(word 2,$(VENV)),)
$(error VENV must not contain spaces)
endif

.DEFAULT_GOAL := help
.PHONY: help env demo demo-seg demo-cls test test-all test-oldest test-newest test-faults test-gpu lint docs FORCE

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22
	@echo "PYTHON= and VENV= select the interpreter and the folder of the environment."
	@echo "TORCH= replaces pip's arguments for torch and torchvision, for instance"
	@echo "  make env TORCH='torch torchvision --index-url https://download.pytorch.org/whl/cpu'"
	@echo "OPERATORS=compiled compiles the MMCV ops, JOBS= is the number of test processes."

env: $(VENV)/ready  ## create .venv (no-op if up to date)

PIP = "$(VENV)/bin/python" -m pip --disable-pip-version-check install -q
# Caches of libraries are also in the environment.
RUN = XDG_CACHE_HOME="$(abspath $(VENV))/cache" MPLCONFIGDIR="$(abspath $(VENV))/cache" \
	"$(VENV)/bin/python"

$(VENV)/ready: $(wildcard requirements/*.txt) setup.py
	@test ! -e "$(VENV)/pyvenv.cfg" -o -e "$@" || grep -q "^prompt = 'mmrest-env'" "$(VENV)/pyvenv.cfg" || \
		{ echo "$(VENV) was not made by make env: remove it, or select another with VENV="; exit 1; }
	@echo "[make env] creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --prompt mmrest-env $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) "$(VENV)"
	@echo "[make env] installing $(TORCH)"
	@$(PIP) $(TORCH)
	@echo "[make env] installing mmdet, mmseg, mmpretrain and the requirements of tests and docs"
	@"$(VENV)/bin/python" -c 'from importlib.metadata import version; \
		print("numpy<2" * version("torch").startswith(("2.1.", "2.2.")))' > "$(VENV)/constraints.txt"
	@$(PIP) -c "$(VENV)/constraints.txt" \
		$(patsubst %,-r requirements/%.txt,core det seg cls runtime optional tests docs)
	@$(PIP) --no-build-isolation --no-deps -e .
ifeq ($(OPERATORS),compiled)
	@echo "[make env] compiling the MMCV ops; this takes 10 to 40 minutes"
	@$(PIP) -r requirements/compiled.txt
	@"$(VENV)/bin/python" -m pip uninstall -q -y mmcv-lite
	@MMCV_WITH_OPS=1 $(PIP) --no-cache-dir --no-deps --no-build-isolation mmcv==2.1.0
	@"$(VENV)/bin/python" -c 'import mmcv._ext'
else ifneq ($(OPERATORS),torchvision)
	$(error OPERATORS is $(OPERATORS); use torchvision or compiled)
endif
	@$(RUN) -W ignore -c \
		'import mmrest, mmcv.ops, mmdet.models, mmseg.models, mmpretrain.models'
	@printf '%s\n' 'PYTHON: $(PYTHON)' 'TORCH: $(TORCH)' 'OPERATORS: $(OPERATORS)' \
		'clone: $(subst ','\'',$(CURDIR))' > $@

ifneq ($(PYTHON) $(TORCH) $(OPERATORS) $(CURDIR),$(call recorded,PYTHON) $(call \
	recorded,TORCH) $(call recorded,OPERATORS) $(call recorded,clone))
$(VENV)/ready: FORCE
endif

DEMO = $(RUN) tools/demo.py

demo: env  ## generate synthetic shapes, train Mask R-CNN on them, plot to work_dirs/demo
	$(DEMO)

demo-seg: env  ## the same with Semantic FPN, in work_dirs/demo-seg
	$(DEMO) semfpn --work-dir work_dirs/demo-seg

demo-cls: env  ## the same with a classifier, in work_dirs/demo-cls
	$(DEMO) cls_rmt_t --work-dir work_dirs/demo-cls

# Test files are distributed over processes of one thread each.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadfile \
	--basetemp "$(abspath $(VENV))/pytest"

TESTS ?= tests

test: env  ## run the tests, or TESTS= only
	$(PYTEST) -m "not slow" $(TESTS)

test-all: env  ## run all tests, with the long grids
	$(PYTEST) $(TESTS)

# The ends of the supported range: an interpreter from pyenv, or from PATH.
python_of = $(or $(shell ls -d "$(HOME)"/.pyenv/versions/$(1).*[0-9]/bin/python 2>/dev/null \
	| sort -V | tail -n 1),python$(1))

test-oldest:  ## run the tests with the oldest Python and torch
	$(MAKE) test VENV=$(VENV)-oldest PYTHON=$(call python_of,3.8) \
		TORCH='torch==2.1.2 torchvision==0.16.2'

test-newest:  ## test networks and engine with the newest Python
	$(MAKE) test VENV=$(VENV)-newest PYTHON=$(call python_of,3.13) \
		TORCH='-r requirements/torch.txt' TESTS="tests/cli/test_check.py \
		$(addprefix tests/,models ops operators checkpoint engine inference)"

test-faults: env  ## run the fault-injection tests (kills, full disk, forks)
	$(RUN) -m pytest -m faults

test-gpu: env  ## test on a GPU: attention backends, speed, and the main job; needs DATA=
	PYTHON="$(VENV)/bin/python" DATA="$(or $(DATA),../shared/data)" tests/gpu.sh

lint: env  ## check style, format, spelling and wording
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
	"$(VENV)/bin/codespell"
	@grep -rniE -f docs/hooks/words.txt --include='*.md' --include='*.py' \
		README.md CONTRIBUTING.md docs mmrest mmrest_cli.py tools configs; test $$? -eq 1

docs: env  ## build the documentation into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
