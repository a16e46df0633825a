# `make` alone says what there is. Everything happens in a virtual environment of its own, $(VENV).
SHELL := bash

PYTHON ?= python3
TORCH  ?= torch==2.13.0
STACK  := onedl
VENV   ?= .venv$(variant)
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mmkd_graph/wheels
PYTEST_ARGS ?=

# Each stack has a lock file and an environment of its own.
variant := $(filter-out -onedl,-$(STACK))
LOCK    := requirements/lock$(variant).txt
$(if $(wildcard $(LOCK)),,$(error STACK=$(STACK): accepted are onedl and upstream))

# What was asked for by name; a default gives way to what the environment already has.
given = $(if $(filter file default undefined,$(origin $1)),,$($1))
# nproc obeys these variables, which are about threads.
CORES := $(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
KEY   := $(shell { echo '$(call given,PYTHON) $(call given,TORCH)'; \
                   cat $(LOCK) requirements/runtime.txt setup.py tools/install.sh; } | cksum | cut -d' ' -f1)
READY := $(VENV)/.mmkd_graph-$(KEY)

.PHONY: help install test test-upstream test-cuda test-slurm lint docs demo clean distclean

help:
	@echo 'make demo          install, then teacher, student and distilled student on a generated set, compared in a table'
	@echo 'make test          install, then the tests; PYTEST_ARGS="-k name -x" goes to pytest, "--cov=mmkd_graph" shows coverage'
	@echo 'make test-upstream make test STACK=upstream'
	@echo 'make test-cuda     install, then the tests that need a GPU; the others hide it'
	@echo 'make test-slurm    install, and Slurm where it is missing (root or sudo), then the tests on a cluster of one node'
	@echo 'make install       make $(VENV): torch, the pinned MMDetection stack (mmcv is built once), this package'
	@echo 'make lint          ruff, and mypy on mmkd_graph/graph and mmkd_graph/losses'
	@echo 'make docs          the documentation, docs/_build/html/index.html; a warning is an error'
	@echo 'make clean         remove caches and build outputs; data/, work_dirs/ and $(VENV) stay'
	@echo 'make distclean     clean, and remove $(VENV), .venv-upstream and work_dirs/demo'
	@echo
	@echo 'PYTHON=$(PYTHON)  3.10, 3.11 or 3.12'
	@echo 'TORCH=$(TORCH)  pip requirement; unless named, a torch that PYTHON can import already is used'
	@echo 'STACK=$(STACK)  onedl, the maintained builds, or upstream, the last of OpenMMLab in .venv-upstream'
	@echo 'VENV=$(VENV)'
	@echo 'WHEELS=$(WHEELS)  where the built mmcv is kept'

install: $(READY)
	@echo '$(VENV) is ready'

$(READY):
	@PYTHON='$(PYTHON)' PYTHON_GIVEN='$(call given,PYTHON)' TORCH='$(TORCH)' TORCH_GIVEN='$(call given,TORCH)' \
	    VENV='$(VENV)' LOCK='$(LOCK)' WHEELS='$(WHEELS)' CORES='$(CORES)' tools/install.sh
	@touch '$@'

# Many tests fork, which CUDA does not survive, and compare to the last bit.
test: $(READY)
	@CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 '$(VENV)/bin/python' -m pytest -c tests/pytest.ini --rootdir . \
	    -n $(CORES) --maxprocesses 8 --dist loadscope mmkd_graph tests $(PYTEST_ARGS)

test-upstream:
	@$(MAKE) --no-print-directory test STACK=upstream

test-cuda: $(READY)
	@'$(VENV)/bin/python' -m pytest -c tests/pytest.ini --rootdir . tests/distillers/test_cuda.py $(PYTEST_ARGS)

test-slurm: $(READY)
	@tests/slurm/install.sh
	@tests/slurm/cluster.sh '$(VENV)/bin/python' -m pytest -c tests/pytest.ini --rootdir . tests/slurm $(PYTEST_ARGS)

lint: $(READY)
	@'$(VENV)/bin/ruff' check . && '$(VENV)/bin/ruff' format --check configs mmkd_graph tests tools setup.py
	@'$(VENV)/bin/mypy' --config-file tests/mypy.ini -p mmkd_graph.graph -p mmkd_graph.losses

docs: $(READY)
	@'$(VENV)/bin/python' -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@'$(VENV)/bin/python' -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

demo: $(READY)
	@'$(VENV)/bin/python' tools/demo.py

clean:
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage .hypothesis .cache .dist_test
	find configs mmkd_graph tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf work_dirs/demo
	@for venv in '$(VENV)' .venv-upstream; do \
	    if [ -f "$$venv/pyvenv.cfg" ]; then echo "rm -rf $$venv"; rm -rf "$$venv"; fi; done
