# Every target prepares what it needs: the virtual environment .venv, made once.
# Variables: PYTHON=python3.12 picks the interpreter, DEMO='--workdir=...' adds flags to the
# demo, TESTS='tests/test_config.py -k name' picks tests, BENCH='--only=network' adds flags to the
# benchmarks; WEB=FOLDER is the export that becomes a web page, SAMPLES=FOLDER has photos for it to
# offer, SITE=FOLDER is where the page goes.
SHELL := bash
PYTHON ?=
DEMO ?=
TESTS ?= tests
BENCH ?=
WEB ?= exported
SAMPLES ?=
SITE ?= web/dist
VENV := .venv
RUN := $(VENV)/bin/python
# A file's tests stay together, for what they share; the longest files come first (tests/conftest.py).
# One more than there are cores: tests of processes wait a lot.
WORKERS := $$($(RUN) -c 'import os; print(min(4, 1 + os.cpu_count()))')
PYTEST := $(RUN) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder \
  --durations=25

.PHONY: help demo web test test-extras bench soak docs lint format clean

help:
	@echo 'make demo    train and evaluate a small BasisNet on scikit-learn digits (DEMO adds flags)'
	@echo 'make web     a web page of the export in WEB (exported), with photos of the folder SAMPLES;'
	@echo '             needs Node.js'
	@echo 'make test    run the tests (TESTS picks some)'
	@echo 'make test-extras  install PyTorch, timm and Keras too, run the tests against them, those'
	@echo '                  of the web page in Chromium, those of an export that Triton serves and'
	@echo '                  those of each network that take long'
	@echo 'make bench   install PyTorch too and run the benchmarks beside it (BENCH adds flags)'
	@echo 'make soak    a run of 20,000 steps, and the same with 20 kills (draws runs/soak.png)'
	@echo 'make docs    build the reference of all modules into site/'
	@echo 'make lint    check style'
	@echo 'make format  apply style'
	@echo 'make clean   remove .venv, .cache, site and what was made in web (not runs)'

demo: $(VENV)/.done
	$(RUN) -m basisnet_jax.main --config=configs/digits.py --workdir=runs/digits $(DEMO)

web: web/node_modules/.done
	@node web/build.mjs --model='$(WEB)' --samples='$(SAMPLES)' --output='$(SITE)'

test: $(VENV)/.done
	JAX_PLATFORMS=cpu $(PYTEST) $(TESTS)

test-extras: $(VENV)/.extras $(VENV)/triton/.done
	JAX_PLATFORMS=cpu EVERY_NETWORK=1 $(PYTEST) tests/extras tests/models/test_networks.py \
	  tests/models/test_published_costs.py

bench: $(VENV)/.bench
	$(RUN) -m benchmarks $(BENCH)

soak: $(VENV)/.done
	JAX_PLATFORMS=cpu $(RUN) -m pytest --capture=no tests/soak

docs: $(VENV)/.done
	JAX_PLATFORMS=cpu $(RUN) docs/reference.py

lint: $(VENV)/.done
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/.done
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) web/node_modules web/dist .cache site .pytest_cache .ruff_cache basisnet_jax.egg-info

# A Python that runs (a shim may exist and fail) and has ensurepip, which Debian and Ubuntu
# ship apart. An interrupted or outdated installation is completed, not begun anew.
$(VENV)/.done: setup.cfg pyproject.toml
	@set -euo pipefail; \
	if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  python=; \
	  for candidate in $(or $(PYTHON),python3 python3.12 python3.11 python3.13); do \
	    if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	        >/dev/null 2>&1; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo '$(if $(PYTHON),PYTHON=$(PYTHON) is no,No) Python 3.11, 3.12 or 3.13 that runs; install one, or run make PYTHON=/path/to/python.' >&2; \
	    exit 1; \
	  fi; \
	  if ! "$$python" -c 'from ensurepip import version' >/dev/null 2>&1; then \
	    package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	      echo "Installing $$package, which $$python needs to make a virtual environment."; \
	      apt-get update -qq </dev/null; \
	      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package" </dev/null >/dev/null; \
	    else \
	      echo "$$python cannot make a virtual environment: run 'sudo apt-get install $$package', then make again." >&2; \
	      exit 1; \
	    fi; \
	  fi; \
	  echo "Making $(VENV) with $$("$$python" --version)."; \
	  "$$python" -m venv --clear $(VENV); \
	fi; \
	echo 'Installing the libraries into $(VENV): about two minutes, 2.9 GB, once.'; \
	if $(RUN) -m pip install --no-input --disable-pip-version-check --progress-bar off \
	    --editable '.[demo,test]' </dev/null 2>&1 | tee $(VENV)/install.log \
	    | awk '/^ *(Collecting|Installing)/ { printf "."; fflush() } END { print "" }'; then \
	  touch $@; \
	else \
	  tail -n 15 $(VENV)/install.log >&2; \
	  echo 'The installation failed; $(VENV)/install.log has all of its output.' >&2; \
	  exit 1; \
	fi

$(VENV)/.extras: $(VENV)/.done
	@echo 'Installing PyTorch, timm and Keras into $(VENV): up to 6 GB, once.'
	@$(RUN) -m pip install --no-input --disable-pip-version-check --progress-bar off --quiet \
	  --editable '.[extras,test]' </dev/null
	@touch $@

# Apart, since it wants an older NumPy. It is for some machines alone; others skip its tests.
$(VENV)/triton/.done: tests/extras/triton.txt | $(VENV)/.done
	@echo 'Installing Triton into $(VENV)/triton: 500 MB, once.'
	@$(RUN) -m venv --clear $(VENV)/triton
	@if $(VENV)/triton/bin/python -m pip install --no-input --disable-pip-version-check \
	    --progress-bar off --quiet --only-binary=:all: --requirement $< </dev/null; then \
	  touch $@; \
	else \
	  rm -rf $(VENV)/triton; echo 'Without Triton: its tests will be skipped.' >&2; \
	fi

$(VENV)/.bench: $(VENV)/.done
	@echo 'Installing PyTorch into $(VENV): up to 6 GB, once.'
	@$(RUN) -m pip install --no-input --disable-pip-version-check --progress-bar off --quiet \
	  --editable '.[bench]' </dev/null
	@touch $@

# Exactly what package-lock.json names; no package runs a program of its own.
web/node_modules/.done: web/package.json web/package-lock.json
	@if ! command -v npm >/dev/null \
	    || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then \
	  echo 'make web needs Node.js 20 or newer, with npm: https://nodejs.org.' >&2; exit 1; \
	fi
	@echo 'Installing LiteRT.js and what builds the page into web/node_modules: 90 MB, once.'
	@npm ci --prefix web --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null
	@touch $@
