# `make` lists what can be made. Everything lands in .venv, .tox and .stack of this checkout.

SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
VENV   := .venv
TOX    := $(VENV)/bin/tox
STACK  := $(PYTHON) tools/stack.py
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check -qq install

SHIPPED := setup.cfg pyproject.toml $(wildcard *.py) \
           $(wildcard adapters/*.py commands/*.py core/*.py handlers/*.py rest/*.py) \
           $(wildcard schemas/*.py schemas/*.json)

.DEFAULT_GOAL := help
.PHONY: help demo test unit lint soak bench stack-up stack-down clean no-build

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: $(VENV)/has-tintype  ## snapshot and restore a container on this machine, from nothing
	@$(VENV)/bin/python tools/demo.py $(ARGS)

# The last line of output is pytest's own: tox is told to add nothing, and what it adds to a failure
# all the same is taken out.
test: $(VENV)/has-tox no-build stack-up  ## lint, types and all tests but soak, against real services
	$(TOX) run -e lint,type
	$(TOX) run -e py311 --notest
	@set -e; env="$$($(STACK) env)"; eval "$$env"; \
	  $(TOX) -qq run -e py311 --skip-pkg-install -- $(ARGS) | sed -u '/^py311: exit [0-9]/d'

unit: $(VENV)/has-tox no-build  ## the unit tests: no services, seconds
	$(TOX) run -e py311 -- tests/unit $(ARGS)

lint: $(VENV)/has-tox no-build  ## ruff and mypy
	$(TOX) run -e lint,type

soak: $(VENV)/has-tox no-build stack-up  ## the tests that take longer than a developer waits
	@set -e; env="$$($(STACK) env)"; eval "$$env"; $(TOX) run -e soak -- $(ARGS)

bench: $(VENV)/has-gunicorn stack-up  ## measure Tintype beside what else there is; JSON comes out
	@set -e; env="$$($(STACK) env)"; eval "$$env"; $(VENV)/bin/python benchmarks $(ARGS)

stack-up:  ## start the real services, see tools/README.md
	$(STACK) up

stack-down:  ## stop them; their data stays in .stack
	$(STACK) down

clean:  ## remove what was made, except .stack (stack-down, then rm -rf .stack)
	rm -rf $(VENV) .tox build dist tintype.egg-info .coverage* .hypothesis .*_cache
	find . -name __pycache__ -not -path './.stack/*' -prune -exec rm -rf {} +

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python >= 3.11: make PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null \
	  || { apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv; } \
	  || { echo 'make: the Debian package python3-venv is needed' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/has-tox: $(VENV)/made
	$(PIP) 'tox>=4.21'
	@touch $@

$(VENV)/has-tintype: $(VENV)/made $(SHIPPED) | no-build
	$(PIP) .
	@touch $@

$(VENV)/has-gunicorn: $(VENV)/has-tintype
	$(PIP) '.[gunicorn]'
	@touch $@

# What an earlier build left in build/ would be installed too, even files deleted since.
no-build:
	@rm -rf build
