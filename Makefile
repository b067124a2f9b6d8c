# Everything a person needs on one machine; each target installs what it lacks first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# A process per core, each with one thread.
PARALLEL = env OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist worksteal

.PHONY: help install install-dev demo test test-pure test-stack test-hosts test-fast chaos image coverage lint audit docs docs-pages up down status lock clean

help:            ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/'

# The stamps hold the lock's name in their own, so a changed lock installs again.
$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q --no-deps -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -r requirements-dev.lock
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed requirements-docs.lock
	$(BIN)/pip install --disable-pip-version-check --progress-bar off -q -r requirements-docs.lock
	touch $@

install: $(VENV)/.installed          ## Make .venv with the locked dependencies and the `rayscale` command

install-dev: $(VENV)/.installed-dev  ## The same, with the tools of the tests

demo: install                        ## Run the whole product once on embedded defaults
	$(BIN)/rayscale demo

test: install-dev                    ## Lint, types, import rules and every test that needs one host
	$(MAKE) lint
	$(MAKE) -j 2 test-pure test-stack

# What needs S3, MLflow and Ray shares one stack in one process, which often waits; the others fill its pauses. They are
# the least urgent of all, as Ray gives its workers a niceness of 15.
test-pure: install-dev
	nice -n 19 $(PARALLEL) -m "not stack and not hosts and not image"

test-stack: install-dev
	$(BIN)/pytest -m "stack and not hosts"

# They share one lab, and have the cores to themselves, as most of them wait for each other's clocks.
test-hosts: install-dev              ## The tests on several hosts, which are namespaces of this machine; they need root
	$(BIN)/pytest -m hosts --durations=0 tests/hosts

chaos: install-dev                   ## Batch, training and service on hosts that fail for 10 minutes; as root, nightly
	timeout --kill-after=60 45m $(BIN)/python benchmarks/chaos.py --seconds 600

image: install-dev                   ## Build the images for real as root, and run them by compose; minutes
	$(BIN)/pytest -m image -s tests/infra

test-fast: install-dev               ## The tests without those that need the stack or take long
	$(PARALLEL) -m "not stack and not hosts and not image and not slow"

coverage: install-dev                ## Branch coverage of the library by every test: a table, and htmlcov/
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n logical --dist worksteal -m "not stack and not hosts and not image"
	$(BIN)/coverage run -m pytest -m "stack or hosts"
	$(BIN)/coverage combine -q
	$(BIN)/coverage html -q
	$(BIN)/coverage report

lint: install-dev                    ## ruff, mypy strict, import rules between the rooms, spelling, secrets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/bandit -q -r -lll -iii platform jobs tune serve
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline

audit: $(VENV)/.installed            ## Compare the lock with the known vulnerabilities (needs their database in the network)
	test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install -q pip-audit; }
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

docs: $(VENV)/.installed-docs        ## Build the documentation into site/, strictly and without network
	$(BIN)/python docs/pages.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

docs-pages: install                  ## Write the generated pages of the reference, wrap the others
	$(BIN)/python docs/pages.py
	$(BIN)/python docs/wrap.py

up: install                          ## Start the local stack: S3, MLflow, Ray
	$(BIN)/rayscale up

down: install                        ## Stop the local stack; its data stays
	$(BIN)/rayscale down

status: install                      ## Show what runs, and where
	$(BIN)/rayscale status

lock: install-dev                    ## Pin the newest versions pyproject.toml allows
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile -q --upgrade --strip-extras --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --extra local --extra geo --extra medical -o requirements.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements.lock
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile -q --generate-hashes --no-annotate --strip-extras --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host --extra local --extra geo --extra medical -c requirements.lock \
	  -o requirements-hashed.lock pyproject.toml
	sed -i -e '/^torch==/,/[^\\]$$/d' -e '/^# WARNING/,$$d' requirements-hashed.lock   # torch is another file in each index
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile -q --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --extra local --extra geo --extra medical --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements-dev.lock
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile -q --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --extra docs -c requirements-dev.lock -o requirements-docs.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements-docs.lock

clean:                               ## Remove the environment and the caches (data of the stack stays)
	rm -rf $(VENV) $(VENV)-audit .mypy_cache .ruff_cache .pytest_cache
