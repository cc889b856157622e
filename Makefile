# make run   the default experiment        make test   everything that CI checks
# Both create the environment first; they need nothing but Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONFIG ?= config/config.yaml

.PHONY: run test test-slurm lint lock clean report benchmark proof faults
.DEFAULT_GOAL := run

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "ipa-energy needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY)
	$(BIN)/snakemake --cores all --configfile $(CONFIG)

report: $(READY)
	$(BIN)/snakemake --cores all --configfile $(CONFIG) --report results/report.html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

test: lint
	$(BIN)/python -m pytest

# A real Slurm with two nodes on this machine, from Debian's packages slurm-wlm and munge; as root, for some minutes.
test-slurm: $(READY)
	$(BIN)/python -m pytest tests/slurm

benchmark: $(READY)
	$(BIN)/python -m benchmarks

# Our meters, and two other tools, on stub hardware of known energy: rewrites the table of docs/proof.md.
proof: $(READY)
	PYTHONPATH=tests $(BIN)/python -m proof

# Kills, full disks, lost nodes and more, each followed by a restart: rewrites the table of docs/faults.md.
faults: $(READY)
	PYTHONPATH=tests $(BIN)/python -m faults --moments 50 --out docs/faults.md

# Pin what pyproject.toml asks for, with hashes, for every supported Python. Needs uv.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --quiet --custom-compile-command "make lock" -o requirements.lock

clean:
	rm -rf $(VENV) .venv-proof .snakemake
