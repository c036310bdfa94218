# Set-up, demo, tests, checks, wheel. Everything lives in .venv of this checkout.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check proto wheel check-wheel clean
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/synera demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Regenerates the wire contract's Python from runtime/wire/synera.proto.
proto: $(STAMP)
	$(BIN)/python -m runtime.wire.generate

# What an earlier build left behind would put removed modules into the wheel.
wheel: $(STAMP)
	rm -rf build dist *.egg-info
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build *.egg-info

check-wheel: wheel
	$(BIN)/python .ci/check_wheel.py dist/*.whl

clean:
	rm -rf $(VENV) runs build dist *.egg-info
