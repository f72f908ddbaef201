# Every command that a person or a pipeline types. `make setup` is idempotent: a stamp per lock file.
# make setup PYTHON=/usr/bin/python3.11: one that was built with optimisations, as a distribution's and the image's are,
# is faster than what a version manager compiles by default.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Most of the time that a process needs to start is the compiler's unless byte code is kept.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup run test bench lint format reference lock
setup: .venv/.dev

.venv/.dev: backend/requirements/dev.lock backend/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --no-deps --require-hashes -r backend/requirements/dev.lock
	$(PIP) install --no-deps --no-build-isolation -e backend
	touch $@

.venv/.embedded: backend/requirements/embedded.lock .venv/.dev
	$(PIP) install --no-deps --require-hashes -r backend/requirements/embedded.lock
	touch $@

# make run BIND=127.0.0.1:9000
run: .venv/.embedded
	$(BIN)/knowalledge serve $(if $(BIND),--bind $(BIND))

# Two at once: docs/how-to/test.md
test: setup
	cd backend && ../$(BIN)/python -m pytest -n 2

# make bench ONLY=overhead; make bench QUICK=1 is shorter and writes no document
bench: setup
	cd backend && ../$(BIN)/python -m bench $(foreach it,$(ONLY),--only $(it)) $(if $(QUICK),--quick)

lint: setup
	cd backend && ../$(BIN)/ruff format --check . && ../$(BIN)/ruff check . && ../$(BIN)/mypy && ../$(BIN)/lint-imports --no-logo
	cd backend && ../$(BIN)/bandit --quiet --recursive --severity-level medium src knowalledge_simulator

format: setup
	cd backend && ../$(BIN)/ruff format . && ../$(BIN)/ruff check --fix .

# The pages of docs/reference and docs/openapi.json, from the tables that the code works with.
reference: setup
	$(BIN)/knowalledge reference docs/reference
	$(BIN)/knowalledge openapi > docs/openapi.json
	cd backend && ../$(BIN)/python -m tools.components

lock:
	cd backend && uv pip compile pyproject.toml --universal --python-version 3.11 --group dev --generate-hashes --no-emit-index-url --no-header -q -o requirements/dev.lock
	cd backend && uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements/runtime.lock
	cd backend && uv pip compile --group pyproject.toml:build --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements/build.lock
	cd backend && uv pip compile --group pyproject.toml:deploy --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements/deploy.lock
	cd backend && uv pip compile requirements/embedded.in --no-deps --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements/embedded.lock

# -- contributors: CONTRIBUTING.md, docs/how-to/release.md ----------------------------------------------------------------

.PHONY: hooks changelog wheel test-wheel docstrings
# Git hooks that format, check and hold the subject of a commit to 72 characters.
hooks: setup deploy-tools
	.run/tools/bin/pre-commit install

# Moves the fragments of changelog.d into CHANGELOG.md, under the version of backend/src/knowalledge/__init__.py.
changelog: setup
	cd backend && ../$(BIN)/python -m tools.changelog

# Twenty public docstrings at random, to be read by somebody who does not know the code; SEED=7 draws the same again.
docstrings: setup
	@cd backend && ../$(BIN)/python -m tools.docstrings $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

wheel: setup
	cd backend && ../$(BIN)/python -m tools.wheel ../dist

# The whole suite against the wheel, installed apart from the source tree.
test-wheel: setup
	cd backend && ../$(BIN)/python -m tools.wheel ../dist ../.run/wheel && ../.run/wheel/bin/python -P -m pytest -n 2

# -- deployment: docs/tutorials/quickstart.md, docs/how-to/deploy.md -------------------------------------------------

.PHONY: secrets demo dev demo-down manifests deploy-tools verify verify-static verify-image verify-compose verify-workflow verify-k8s verify-grants coverage bandit audit smoke release
secrets:
	deploy/secrets.sh

DEMO := KNOWALLEDGE_GATEWAY=./deploy/config/demo.yaml docker compose --profile demo

demo: secrets
	$(DEMO) up -d --build --wait
	@echo "gateway http://127.0.0.1:8080  Grafana http://127.0.0.1:3000  Prometheus http://127.0.0.1:9090  stop: make demo-down"

# One stack with the code of this checkout, restarted when it changes.
dev: secrets
	KNOWALLEDGE_GATEWAY=./deploy/config/demo.yaml docker compose -f docker-compose.yml -f docker-compose.dev.yml --profile demo up --build

demo-down:
	$(DEMO) --profile traces down --volumes --remove-orphans

# Writes what is generated: the PrometheusRule, the dashboard, the list of settings in k8s/base/gateway.yaml.
manifests: setup
	$(BIN)/python deploy/manifests.py

# Linters of the deployment files, apart from the environment that runs and tests.
deploy-tools: .run/tools/.stamp
.run/tools/.stamp: backend/requirements/deploy.lock
	$(PYTHON) -m venv .run/tools
	.run/tools/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r $<
	touch $@

verify: verify-static verify-workflow verify-image verify-compose

verify-static: deploy-tools
	deploy/verify/static.sh

# The pipeline itself, executed here with stubs for what others wrote.
verify-workflow: deploy-tools
	deploy/verify/workflow.sh

verify-image: deploy-tools
	deploy/verify/image.sh

verify-compose: secrets
	deploy/verify/compose.sh

# The production overlay on a real API server, scheduler and autoscaler; compiles them once, so it takes minutes the first time.
verify-k8s: setup
	deploy/verify/k8s.sh

# What one Redis carries, measured; docs/explanation/scaling.md
verify-grants: setup
	cd backend && ../$(BIN)/python ../deploy/verify/grants.py

# What continuous integration also calls.
coverage: setup
	cd backend && ../$(BIN)/python -m coverage run -m pytest && ../$(BIN)/python -m coverage xml && ../$(BIN)/python -m coverage report --skip-covered --skip-empty

bandit: deploy-tools
	.run/tools/bin/bandit -q -r backend/src backend/knowalledge_simulator -f sarif -o .run/bandit.sarif --exit-zero
	.run/tools/bin/bandit -q -r backend/src backend/knowalledge_simulator --severity-level medium

# A package that no advisory source knows is a failure here: "skipped" must never pass for "without a finding".
audit: deploy-tools
	.run/tools/bin/pip-audit --strict --disable-pip --require-hashes -r backend/requirements/runtime.lock || { echo "audit: NOT passed: a finding above, or no advisory source could be asked"; exit 1; }

smoke:
	deploy/smoke.sh $(URL)

release:
	deploy/release.sh $(OVERLAY) $(IMAGE) $(URL)
