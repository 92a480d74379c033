# make demo   sets everything up, trains both phases on embedded sample data, evaluates, draws predictions
# make test   sets everything up, runs the linter and the tests
# make test-all  the same, then the tests that take longest
# Needs Python 3.10 or newer (PYTHON=python3.12 make test takes another one) and make.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
DEMO   := --Dataset sample --variant srs_tiny --output_dir checkpoints/demo

.PHONY: demo test test-all lint clean

demo: $(VENV)/.demo DataSet/sample
	$(RUN) train_recon.py $(DEMO) --resume auto
	$(RUN) train_seg.py $(DEMO) --resume auto
	$(RUN) evaluation.py $(DEMO) --report checkpoints/demo/report
	@echo "open checkpoints/demo/report/report.html: figures, curves, predictions and their errors, DPConv at work"

test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 4 -m "not long"  # many wait for their processes: two more than two cores

test-all: test
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 4 -m long

lint: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:  # what make demo has trained, so that it trains anew; the virtual environment and the data stay
	rm -rf checkpoints/demo

DataSet/sample: | $(VENV)/.demo
	$(RUN) prepare_data.py sample $@

$(VENV)/.demo: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: PYTHON=... make")'
	@echo "installing the requirements into $(VENV): once, minutes and 6 GB (under 2 GB with a torch for CPUs: README)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV)/.test: requirements-dev.txt requirements-export.txt requirements-plots.txt $(VENV)/.demo
	$(RUN) -m pip install --quiet --disable-pip-version-check -r $<
	touch $@
