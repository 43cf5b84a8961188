# tagmask: `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help setup demo test test-slow lint results results-video bench clean

help:           ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.done   ## make .venv with everything in it, once

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: setup     ## draw photos, run cam and full on them, compare; then look at demo/cam/report.html
	$(BIN)/tagmask demo --out demo

test: setup     ## the fast tests (about 3 minutes on 2 cores)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

test-slow: setup  ## the tests that need minutes, real data or a peer package
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	$(BIN)/python -m pytest -m slow

lint: setup     ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

results: setup  ## measure on real photos: make results DATA=DIR WEIGHTS=FILE (see docs/results.md)
	$(BIN)/python -m benchmarks.results --data "$(DATA)" --weights "$(WEIGHTS)" $(RESULTS)

results-video: setup  ## measure on clips: make results-video DATA=PHOTOS CLIPS=DIR DRIVE=DIR WEIGHTS=FILE (see docs/results-video.md)
	$(if $(CLIPS),OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.video_follow --photos "$(DATA)" --clips "$(CLIPS)" --weights "$(WEIGHTS)" $(RESULTS))
	$(if $(CLIPS),$(BIN)/python -m benchmarks.video_long --clip "$(CLIPS)/images/libby" --mask "$(CLIPS)/masks/libby/00000.png" --model local/video/desk/train1000-all-0)
	$(if $(DRIVE),OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.video_label --data "$(DRIVE)" --weights "$(WEIGHTS)" $(RESULTS))
	$(BIN)/python -m benchmarks.video_attention
	$(BIN)/python -m benchmarks.results_video

bench: setup    ## measure the kernels beside their peers (see docs/speed.md): make bench [PHOTOS=DIR] [DATA=DIR WEIGHTS=FILE]
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	$(BIN)/python -m benchmarks.speed $(if $(PHOTOS),--photos "$(PHOTOS)") $(BENCH)
	$(if $(DATA),$(BIN)/python -m benchmarks.job --data "$(DATA)" --weights "$(WEIGHTS)")

clean:          ## remove what can be made again, but no runs
	rm -rf $(VENV) build demo .pytest_cache .ruff_cache .mypy_cache .hypothesis
