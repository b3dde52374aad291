# The entry point for developers and for CI. Every target creates the virtual environment that it
# needs; a stamp file in the environment records what is installed, so that later runs are quick.

PYTHON ?= $(or $(shell command -v python3),$(shell command -v python))
VENV ?= .venv
NAMEKO2 := nameko==2.14.1
NAMEKO3 := nameko==3.0.0rc11
VERSIONS := 3.10 3.11 3.12 3.13

QUICK := -q -m 'not server' --hypothesis-profile=brief

MAKEFLAGS += --no-print-directory
SEED ?= 1
ROUNDS ?= 20
MESSAGES ?= 20000
PORT ?= 8000
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Settings of the caller's shell must not reach the tests.
unexport PYTHONPATH
unexport PYTEST_ADDOPTS
# Each process that a test starts would compile all of this once more.
unexport PYTHONDONTWRITEBYTECODE

say = @printf '\033[1m==> %s\033[0m\n' "$(1)"
ifeq ($(shell test -t 1 && echo terminal),)
say = @printf '==> %s\n' "$(1)"
endif

.PHONY: help
help: ## list the targets
	@echo "nameko-eventlog: log records as Nameko events"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12 make ... uses another interpreter (now: $(PYTHON))"

.PHONY: demo
demo: $(VENV)/.runtime ## run two services and a store; print what was received and stored
	$(call say,demo: docs/examples/demo.py)
	@$(VENV)/bin/python docs/examples/demo.py

.PHONY: explore
explore: $(VENV)/.runtime ## run the demo's services, the store and the explorer, with traffic: PORT=8000
	$(call say,explore: docs/examples/explore.py)
	@$(VENV)/bin/python docs/examples/explore.py --port $(PORT)

.PHONY: quick
quick: $(VENV)/.test ## tests that need no server: logging, bodies, outbox, spool, SQLite, pages
	$(call say,quick: $$($(VENV)/bin/python --version) $(NAMEKO))
	@log=$$(mktemp); trap 'kill $$other 2> /dev/null || true; rm -f $$log' EXIT; \
	$(VENV)/bin/python -m pytest $(QUICK) tests/amqp tests/delivery > $$log 2>&1 & other=$$!; \
	passed=yes; \
	$(VENV)/bin/python -m pytest $(QUICK) tests/logging_ext tests/dispatching tests/store \
		tests/explorer/test_[a-r]*.py tests/security/test_redaction.py tests/security/test_limits.py \
		tests/test_project.py tests/test_example_config.py || passed=; \
	wait $$other || passed=; \
	cat $$log; \
	test -n "$$passed"

.PHONY: lowest
lowest: ## make quick with the oldest dependencies that pyproject.toml allows
	@mkdir -p build
	@scripts/lowest-versions > build/lowest.txt
	@$(MAKE) quick VENV=$(VENV)-lowest CONSTRAINTS=build/lowest.txt

.PHONY: test
test: rabbitmq postgresql chromium ## all tests on this Python: both Namekos, a browser, coverage, the built wheel
	@$(MAKE) $(VENV)/.browser VENV=$(VENV) NAMEKO='$(NAMEKO2)'
	@mkdir -p build
	@$(VENV)/bin/python -m coverage erase
	@# Two at a time, the longest first. Each prints its output when it ends.
	@printf '%s\n' measured store nameko3 faults browser tutorial wheel | xargs -n 1 -P 2 $(SHELL) -c '\
		echo "==> begins: $$0"; \
		status=0; $(MAKE) test-$$0 > build/test-$$0.log 2>&1 || status=$$?; \
		cat build/test-$$0.log; \
		exit $$status'
	$(call say,coverage)
	@$(VENV)/bin/python -m coverage combine --quiet
	@$(VENV)/bin/python -m coverage report --fail-under=95

# Tests of code that has nothing to do with Nameko: connections, the outbox and the spool, what commands
# print, the limits of the page's server, the store's databases. One Nameko is enough for them; make test-all runs them on both.
ONE_NAMEKO := \
	$(addprefix tests/amqp/test_,broker.py deliveries.py frame_reading.py frame_writing.py received.py) \
	$(addprefix tests/cli/test_,exporting.py filters.py importing.py output.py spools.py) \
	$(addprefix tests/delivery/spool/test_,disk.py spool.py trouble.py) \
	$(addprefix tests/delivery/test_,administration.py anywhere.py broker_delivery.py interrupt.py \
		limits.py relay.py watching.py) \
	$(addprefix tests/explorer/test_,access.py connections.py passwords.py) \
	$(addprefix tests/security/test_,numbers.py queries.py replay.py spool.py) \
	$(addprefix tests/store/test_,databases.py exporting.py files.py importing.py levels.py partitions.py \
		queries.py retention.py rows.py rules.py searching.py sqlite_files.py summaries.py traces.py)

# The run with coverage takes two to three times as long, so it gets fewer of Hypothesis'
# examples, and the store is a part of its own. make test-all runs the faults on Nameko 3, too. The tutorial has its own
# environment, so once is enough.
.PHONY: test-measured test-store test-nameko3 test-faults test-browser test-tutorial test-wheel
test-measured:
	@$(MAKE) suite NAMEKO='$(NAMEKO2)' MEASURED='-m coverage run --parallel-mode' \
		TESTS='--hypothesis-profile=brief $(addprefix --ignore tests/,faults tutorial store)'
test-store:
	@$(MAKE) suite NAMEKO='$(NAMEKO2)' MEASURED='-m coverage run --parallel-mode' \
		TESTS='--hypothesis-profile=brief tests/store'
test-nameko3:
	@$(MAKE) suite VENV=$(VENV)-nameko3 NAMEKO='$(NAMEKO3)' \
		TESTS='--ignore tests/faults --ignore tests/tutorial $(addprefix --ignore ,$(ONE_NAMEKO)) \
		-k "not clickhouse"'
test-tutorial:
	@$(MAKE) suite NAMEKO='$(NAMEKO2)' TESTS=tests/tutorial
test-faults test-browser test-wheel: test-%:
	@$(MAKE) $* NAMEKO='$(NAMEKO2)'

.PHONY: test-all
test-all: rabbitmq postgresql ## all tests on each installed Python from 3.10 to 3.13, with both Namekos
	@for version in $(VERSIONS); do \
		if python=$$(scripts/find-python $$version); then \
			$(MAKE) suite faults PYTHON=$$python VENV=.venv-$$version NAMEKO='$(NAMEKO2)' \
				TESTS='--ignore tests/faults'; \
			$(MAKE) suite faults PYTHON=$$python VENV=.venv-$$version-nameko3 NAMEKO='$(NAMEKO3)' \
				TESTS='--ignore tests/faults --ignore tests/tutorial'; \
			tested="$${tested:-} $$version"; \
		else \
			echo "==> Python $$version: not installed, skipped"; \
		fi; \
	done; \
	test -n "$${tested:-}"; \
	echo "==> passed with both Namekos on Python:$$tested"

.PHONY: browser
browser: postgresql chromium $(VENV)/.browser ## tests of the explorer in a real Chromium
	$(call say,tests in a browser: $$(chromium --version 2> /dev/null))
	@# In a separate process, because tests/conftest.py patches the standard library.
	@$(VENV)/bin/python -m pytest -q \
		--confcutdir=tests/browser tests/browser $(OPTIONS)

.PHONY: screenshots
screenshots: ## renew docs/screenshots, with the same tests
	@$(MAKE) browser OPTIONS='--screenshots -k TestPictures'

.PHONY: faults
faults: rabbitmq postgresql $(VENV)/.test ## tests that kill, freeze or starve the broker, the database and the process
	$(call say,faults: $$($(VENV)/bin/python --version) $(NAMEKO))
	@# Without coverage, which halves the speed of services; tests/delivery covers the same lines.
	@$(VENV)/bin/python -m pytest -q tests/faults

.PHONY: chaos
chaos: rabbitmq postgresql $(VENV)/.test ## the same faults at random moments, and a cluster: SEED=1 ROUNDS=20
	$(call say,chaos: SEED=$(SEED) ROUNDS=$(ROUNDS))
	@SEED=$(SEED) ROUNDS=$(ROUNDS) KILLS=20 EVENT_LOGS=100000 \
		$(VENV)/bin/python -m pytest -q -s tests/faults --override-ini 'python_files=test_*.py chaos_*.py'

.PHONY: fuzz
fuzz: rabbitmq $(VENV)/.test ## send hostile messages to handlers, store and tail: MESSAGES=20000 SEED=1
	$(call say,fuzz: MESSAGES=$(MESSAGES) SEED=$(SEED) $(NAMEKO))
	@MESSAGES=$(MESSAGES) SEED=$(SEED) $(VENV)/bin/python -m pytest -q -s tests/security/test_fuzzing.py

.PHONY: check
check: $(VENV)/.check ## ruff, mypy (strict), the documentation with warnings as errors
	$(call say,ruff)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	$(call say,mypy)
	@$(VENV)/bin/mypy
	@$(MAKE) docs VENV=$(VENV)

.PHONY: docs
docs: $(VENV)/.check ## build the documentation into docs/_build/html
	$(call say,docs: docs/_build/html/index.html)
	@$(VENV)/bin/sphinx-build -E -n -W --keep-going -q -b html docs docs/_build/html

.PHONY: bench
bench: rabbitmq postgresql $(VENV)/.bench ## measure the speed, beside other libraries
	$(call say,benchmarks)
	@$(VENV)/bin/python -m benchmarks

.PHONY: soak
soak: rabbitmq $(VENV)/.bench ## send a million event logs: memory and throughput must stay constant
	$(call say,soak)
	@$(VENV)/bin/python -m benchmarks.soak --plot docs/soak.svg

.PHONY: format
format: $(VENV)/.check ## format the code and fix what ruff can fix
	@$(VENV)/bin/ruff check --fix-only --quiet .
	@$(VENV)/bin/ruff format .

.PHONY: clean
clean: ## remove environments, builds and caches
	rm -rf .venv .venv-* build dist docs/_build htmlcov .coverage \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Targets that the ones above use.

.PHONY: rabbitmq
rabbitmq:
	@scripts/install-rabbitmq $(PYTHON)

.PHONY: postgresql
postgresql:
	@scripts/install-postgresql $(PYTHON)

.PHONY: chromium
chromium:
	@scripts/install-chromium $(PYTHON)

.PHONY: suite
suite: $(VENV)/.test
	$(call say,tests: $$($(VENV)/bin/python --version) $(NAMEKO))
	@# Coverage imports eventlet, which prints a long deprecation warning.
	@PYTHONWARNINGS=ignore::Warning:coverage.collector $(VENV)/bin/python $(MEASURED) -m pytest -q $(TESTS)

.PHONY: wheel
wheel: $(VENV)/.test
	$(call say,the wheel: built from this tree and installed in an empty environment)
	@rm -rf build/wheel
	@$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	@$(PYTHON) -m venv build/wheel/venv
	@build/wheel/venv/bin/python -m pip install --quiet build/wheel/*.whl
	@cp README.md tests/wheel_smoke.py build/wheel
	@cd build/wheel && venv/bin/python -I -W ignore wheel_smoke.py README.md

# One environment for each $(VENV), installed step by step. It is created again when the
# dependencies, the interpreter, Nameko or the directory have changed.

NAMEKO ?= $(NAMEKO2)
# An optional file of constraints for pip.
CONSTRAINTS ?=
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet $(addprefix -c ,$(CONSTRAINTS))
ORIGIN = $(shell $(PYTHON) -c 'import sys; print(sys.version)') $(NAMEKO) $(CURDIR) $(CONSTRAINTS)

ifeq ($(filter help clean,$(or $(MAKECMDGOALS),help)),)
ifneq ($(wildcard $(VENV)/.runtime),)
ifneq ($(ORIGIN),$(shell cat $(VENV)/.runtime))
$(shell rm $(VENV)/.runtime)
endif
endif
endif

$(VENV)/.runtime: pyproject.toml
	$(call say,$(VENV): the library with $(NAMEKO))
	@$(PYTHON) -m venv --clear $(VENV)
	@# The pip that comes with Python 3.11 does not support dependency groups.
	@$(VENV)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(PIP_INSTALL) --editable '.[store,cli,explorer]' '$(NAMEKO)'
	@echo "$(ORIGIN)" > $@

$(VENV)/.test: $(VENV)/.runtime
	$(call say,$(VENV): test tools)
	@$(PIP_INSTALL) --group test
	@touch $@

$(VENV)/.browser: $(VENV)/.test
	$(call say,$(VENV): what drives a browser)
	@$(VENV)/bin/python -m pip install --quiet --group browser
	@touch $@

$(VENV)/.check: $(VENV)/.test
	$(call say,$(VENV): ruff$(comma) mypy and Sphinx)
	@$(VENV)/bin/python -m pip install --quiet --group lint --group docs
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime
	$(call say,$(VENV): the peers to measure against)
	@$(VENV)/bin/python -m pip install --quiet --group bench
	@touch $@

comma := ,
