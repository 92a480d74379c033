# make demo      creates the environment, trains both phases on sample data, evaluates, writes a report
# make test      creates the environment, runs the linter and the tests
# make test-all  the same, and the longest tests
# Requires Python 3.10 or newer (choose one with PYTHON=python3.12 make test) and make.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
DEMO   := --Dataset sample --variant srs_tiny --output_dir checkpoints/demo

.PHONY: demo test test-all lint clean

demo: $(VENV)/.demo DataSet/sample
	$(RUN) train_recon.py $(DEMO) --resume auto
	$(RUN) train_seg.py $(DEMO) --resume auto
	$(RUN) evaluation.py $(DEMO) --report checkpoints/demo/report
	@echo "open checkpoints/demo/report/report.html in a browser: figures, curves, predictions, errors and DPConv"

test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 4 -m "not long"  # four tests on two cores, because many wait for processes

test-all: test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 4 -m long

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:  # removes the runs of make demo; the virtual environment and the data stay
	rm -rf checkpoints/demo

DataSet/sample: | $(VENV)/.demo
	$(RUN) prepare_data.py sample $@

$(VENV)/.demo: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is required: PYTHON=... make")'
	@echo "installing the requirements into $(VENV): takes minutes and 6 GB (less than 2 GB with a CPU-only torch, see README)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.test: requirements-dev.txt requirements-export.txt requirements-plots.txt $(VENV)/.demo
	$(RUN) -m pip install --quiet --disable-pip-version-check -r $<
	touch $@
