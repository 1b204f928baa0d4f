# Everything runs in a virtual environment of its own, .venv, made once and brought up to date when setup.py or constraints.txt change.
#   make demo    a robot arm adapts to objects it has never met: in simulation, then over ROS 2
#   make demo-ros  over ROS 2: an arm and an object it does not know, then a quadrotor in a wind it has never met; bags, plots, films
#   make test    checks and tests, as the continuous integration runs them
#   make check   format, lint and types alone
#   make learn   the slow tests: does each algorithm learn?
#   make zoo     train everything in metarl/zoo again and measure it: RESULTS.md; many hours
#   make bench   speed, printed and written to runs/benchmark.json

# the first that fits is taken; another one: make PYTHON=/usr/bin/python3.12 demo
PYTHON ?= python3.11 python3 python3.12 python3.13
VENV := .venv
BIN := $(VENV)/bin
# by a variable, so that it holds for the isolated build of the package as well
INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: demo demo-ros test check learn zoo bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.for-demo
	$(BIN)/metarl demo

demo-ros: $(VENV)/.for-demo
	$(BIN)/python -m metarl.ros_nodes.tour

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.for-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

learn: $(VENV)/.for-test
	$(BIN)/python -m pytest -m learn

zoo: $(VENV)/.for-demo
	$(BIN)/python benchmarks/retrain.py
	$(BIN)/python benchmarks/results.py

bench: $(VENV)/.for-demo
	$(BIN)/metarl benchmark --json runs/benchmark.json

$(VENV)/.for-demo: pyproject.toml setup.py constraints.txt | $(BIN)/pip
	@echo "Installing metarl with its simulators and ROS 2 into $(VENV) (about two minutes)"
	$(INSTALL) -e '.[sim,ros]'
	@touch $@

$(VENV)/.for-test: pyproject.toml setup.py constraints.txt | $(BIN)/pip
	@echo "Installing metarl with its simulators, ROS 2 and the tools of its tests into $(VENV) (about two minutes)"
	$(INSTALL) -e '.[sim,ros,dev]'
	@touch $@ $(VENV)/.for-demo

$(BIN)/pip:
	@for python in $(PYTHON); do \
		$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break; python=; \
	done; \
	test -n "$$python" || { echo "metarl needs Python 3.11, 3.12 or 3.13 (3.11 has wheels of everything), and found none among: $(PYTHON)." \
		"Debian, Ubuntu: sudo apt install python3.11 python3.11-venv"; exit 1; }; \
	$$python -c 'import ensurepip, venv' 2>/dev/null || { echo "$$python cannot make virtual environments: its module ensurepip is not installed." \
		"Debian, Ubuntu: sudo apt install python3-venv"; exit 1; }; \
	echo "Making a virtual environment with $$python in $(VENV)"; \
	rm -rf $(VENV) && $$python -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
