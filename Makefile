# Everything runs in a virtual environment of its own, .venv, made once and brought up to date when setup.py or constraints.txt change.
#   make demo    a robot arm adapts to objects it has never met: in simulation, then over ROS 2
#   make demo-ros  over ROS 2: an arm and an object it does not know, then a quadrotor in a wind it has never met; bags, plots, films
#   make test    checks and tests, as the continuous integration runs them
#   make test-kilted  real nodes once more, on ROS 2 Kilted in place of Jazzy
#   make check   format, lint and types alone
#   make learn   the slow tests: does each algorithm learn? is a million of commands safe?
#   make zoo     train everything in metarl/zoo again and measure it: RESULTS.md; many hours
#   make bench   speed, printed and written to runs/benchmark.json

# the first that fits is taken; another one: make PYTHON=/usr/bin/python3.12 demo
PYTHON ?= python3.11 python3 python3.12 python3.13
VENV := .venv
KILTED := .venv-kilted
LAUNCH := .venv-launch
PYTHON310 ?= python3.10
BIN := $(VENV)/bin
# by a variable, so that it holds for the isolated build of the package as well
INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: demo demo-ros test test-kilted check learn zoo bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.for-demo
	$(BIN)/metarl demo

demo-ros: $(VENV)/.for-demo
	$(BIN)/python -m metarl.ros_nodes.tour

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

# every graph, and every kind of node, message, service and fault; the tests that need no processes have passed in `make test`
test-kilted: $(KILTED)/.for-test
	$(KILTED)/bin/python -m pytest -n 2 --dist worksteal -p no:cacheprovider \
		$(foreach file,faults clock sim_node vehicle_graph recorder_node,tests/ros_nodes/test_$(file).py) \
		$(foreach name,a_trial_over_dds_is_the_trial_without a_grasp_over_dds_is_the_grasp_without the_chef_cooks_over_dds,tests/ros_nodes/test_nodes.py::test_$(name))

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

# Kilted and Jazzy have the same import names, so each has an environment; what is not ROS is found in .venv, behind Kilted's own
$(KILTED)/.for-test: requirements-kilted.txt $(VENV)/.for-test
	@echo "Installing ROS 2 Kilted into $(KILTED) (half a minute)"
	@rm -rf $(KILTED) && $(BIN)/python -m venv $(KILTED)
	$(KILTED)/bin/python -m pip install --disable-pip-version-check --quiet -r requirements-kilted.txt
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(KILTED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beneath.pth"
	@$(KILTED)/bin/python -c 'import importlib.metadata as m; found = m.version("ros-rclpy"); assert found.startswith("9."), f"rclpy {found} is not of Kilted"'
	@touch $@

# play_launch looks at the launch files in `make test` where METARL_PLAY_LAUNCH names this environment; it has wheels for Python 3.10 alone
$(LAUNCH)/.for-test:
	@echo "Installing play_launch into $(LAUNCH)"
	@rm -rf $(LAUNCH) && $(PYTHON310) -m venv $(LAUNCH)
	$(LAUNCH)/bin/python -m pip install --disable-pip-version-check --quiet play_launch==0.16.0 numpy==2.2.6 pyyaml==6.0.3
	@touch $@

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
	rm -rf $(VENV) $(KILTED) $(LAUNCH) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
