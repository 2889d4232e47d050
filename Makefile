# Everything runs on a fresh machine with Python 3.11 (or later) and make: the first target that needs it makes .venv.
PYTHON ?= python3
VENV ?= .venv
METHOD ?= r2o
RUN = runs/demo/$(METHOD)
PY = $(VENV)/bin/python

.PHONY: env demo eval-demo demo-long demo-data browser test test-slow results-cpu results-gpu benchmark audit clean
.DELETE_ON_ERROR:

env: $(VENV)/.ready

# uv installs in seconds; pip does the same where uv cannot be had.
$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv \
	  && $(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -r requirements.txt \
	  || $(PY) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

demo-data: env
	$(PY) -m tools.make_demo_data --output_dir demo_data

# Pretrain on the embedded scenes, then say what the backbone learned; an interrupted demo goes on where it stopped.
demo: demo-data
	$(PY) -m tools.demo --method $(METHOD)

# Every evaluator in small, on a demo's backbone and on the same untrained. R2O's demo trains C4, which these do not read.
eval-demo: METHOD = detconb
eval-demo: demo-data
	$(PY) -m tools.eval_demo --method $(METHOD)

demo-long: demo-data
	$(PY) -m tools.demo --method $(METHOD) --long

# Chromium by apt-get, where it is missing and can be had; without it test-slow leaves out how the report's page looks.
browser:
	@scripts/install_browser.sh

test: env
	$(PY) -m pytest -q -m "not slow" tests

test-slow: env
	$(PY) -m pytest -q -m slow tests

# What each method learns, by one protocol: docs/results.md. MINUTES=9 stops after so many, and the same line goes on.
# PYTHON=python3 on this line takes an interpreter that has everything, on a machine without network.
OWN_PYTHON = $(findstring command,$(origin PYTHON))
results-cpu results-gpu: results-%: $(if $(OWN_PYTHON),,env)
	$(if $(OWN_PYTHON),$(PYTHON),$(PY)) -m benchmarks.results --size $* $(if $(MINUTES),--minutes $(MINUTES))

benchmark: env
	$(PY) -m benchmarks.end_to_end --method $(METHOD)

# Known weaknesses: of the code (bandit; pyproject.toml says what is left out and why), and of the packages in $(VENV).
PACKAGES = models losses data engine utils tools evaluation benchmarks
audit: env
	$(PY) -m uv tool run --quiet bandit --quiet --configfile pyproject.toml --recursive $(wildcard *.py) $(PACKAGES)
	$(PY) -m uv tool run --quiet pip-audit --progress-spinner off \
	  --path "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean:
	rm -rf runs/demo runs/eval-demo demo_data
