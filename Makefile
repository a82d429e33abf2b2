# Everything runs in a virtual environment of its own; a fresh machine needs Python 3.11 or later and make.
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# One thread per worker: many small tensors gain nothing from more, and workers must not fight over cores. Who is done
# takes work from the others, so that the last dear test does not keep all cores waiting. Bytecode is kept, whatever the
# environment says: without it every worker and every fresh interpreter of a test compiles the package and the tests anew.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest -n auto --dist worksteal

# A fast test that is not done after five minutes hangs: its worker says where every thread stands, and the test fails.
HUNG := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

.PHONY: demo evidence test test-all test-newest test-oldest lint docs bench zoo clean

demo: $(STAMP)
	$(PYTHON) -m neuromech demo

test: $(STAMP)
	$(PYTEST) $(HUNG) -m "not slow"

test-all: $(STAMP)
	$(PYTEST)

lint: $(STAMP)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# The documentation, in site/.
docs: $(STAMP)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(PYTHON) docs/generate.py
	$(PYTHON) -m mkdocs build --strict

# The fast tests on the newest PyTorch and on the oldest, whose builds hold gigabytes of CUDA libraries: by hand, not by CI.
test-newest: TORCH := 2.14.1
test-oldest: TORCH := 2.6.0
test-newest test-oldest:
	test -x .venv-$(TORCH)/bin/python || python3 -m venv .venv-$(TORCH)
	.venv-$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) -e '.[demo,physics,test]'
	OMP_NUM_THREADS=1 .venv-$(TORCH)/bin/python -m pytest -n auto --dist worksteal -m "not slow"

# Every claim of README and docs, measured anew; resumable. Ends with one line a claim and the path of a page.
evidence: $(STAMP)
	$(PYTHON) -m experiments.evidence

# The first line is one table beside peers, those that are installed; --write makes docs/benchmarks.md of it.
bench: $(STAMP)
	$(PYTHON) -m experiments.benchmarks
	$(PYTHON) -m experiments.benchmarks.overhead
	$(PYTHON) -m experiments.benchmarks.processes
	$(PYTHON) -m experiments.benchmarks.eom
	$(PYTHON) -m experiments.predicted_charges --out runs/predicted_charges-$$$$ && \
	$(PYTHON) -m analysis.predicted_charges runs/predicted_charges-$$$$

$(STAMP): pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,physics,test,lint]'
	touch $@

# Detection against the null-space oracle, on every architecture of the zoo.
zoo: $(STAMP)
	cd tests && ../$(PYTHON) -m architectures --misses

clean:
	rm -rf $(VENV) .venv-2.* site docs/reports runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
