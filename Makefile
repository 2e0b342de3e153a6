# `make demo` and `make test` are all a newcomer needs; both set up what is missing first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export VENV

.PHONY: demo setup dev test check lint types clean

demo: setup          ## build a variant, serve it, route between it and a stand-in cloud
	$(BIN)/foreshore demo

setup:               ## install the base system into .venv
	@$(PYTHON) scripts/setup.py

dev:                 ## install everything that the tests need
	@$(PYTHON) scripts/setup.py dev

test: dev lint types ## lint, types, tests
	$(BIN)/python -m pytest

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

clean:               ## forget the environment (the compiled engine stays in the user's cache)
	rm -rf $(VENV) build dist
