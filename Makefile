# Everything works from a bare checkout with Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/digits
SOAK ?= runs/soak.xml

.PHONY: help test demo docs bench soak format clean
help:
	@echo "make demo    the paper's whole grid on real images: Tables 1-7 and a report"
	@echo "make test    the gate: format, lint, types, tests"
	@echo "make docs    the guides and the reference as a site: docs/_site/index.html"
	@echo "make bench   the benchmarks: forward pass, test protocols, reading images, exported nets, other software, features, weight files, a million names, the service under load"
	@echo "make soak    the long tests: 20 kills each of a reproduction and of a run on photographs, 10 of ranks, 100,000 damaged weight files, 2,000 requests to the service"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove the environment, caches and demo runs"

# Made anew when the requirements change; otherwise nothing to do.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vggnet needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: .venv/installed
	$(BIN)/vggnet reproduce digits --out $(OUT) --jobs 2

test: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

docs: .venv/installed
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_site
	@echo "docs/_site/index.html"

bench: .venv/installed
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/protocols.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/fc.py
	$(BIN)/python benchmarks/files.py
	$(BIN)/python benchmarks/listing.py
	$(BIN)/python benchmarks/serve.py

soak: .venv/installed
	VGGNET_KILLS=20 VGGNET_FUZZ=100000 VGGNET_CASES=2000 $(BIN)/pytest -m soak -o faulthandler_timeout=14400 --junit-xml=$(SOAK)

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv $(OUT) docs/_site .mypy_cache .pytest_cache .ruff_cache dist
