# Each target starts from a bare machine with Python 3.11: it makes .venv, installs the host and the pack, does its work.
PYTHON ?= python3
# tests run in so many processes, each with a server of its own; 0 runs them in one
WORKERS ?= 2
VENV := .venv
RUN := $(VENV)/bin/python -P -m attractor_pack
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast test-full bench-quality bench-mask-qualities bench-relatives bench-representations bench-options bench-masks bench-speed bench-scoring bench-studio lint checkpoints clean

demo: $(STAMP)
	$(RUN).tools.demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(WORD),--word "$(WORD)")

test: $(STAMP) lint
	$(VENV)/bin/python -P -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 25 -m "not full"

test-fast: $(STAMP)
	$(VENV)/bin/python -P -m pytest tests/unit tests/studio -m "not slow" -n $(WORKERS) --dist loadfile

test-full: $(STAMP)
	ATTRACTOR_TEST_SDXL=1 $(VENV)/bin/python -P -m pytest tests/host/test_full_size.py -s

bench-quality: $(STAMP)
	$(RUN).tools.quality --write $(ARGS)

bench-representations: $(STAMP)
	$(RUN).tools.quality --tables representations --settings same_shoot --as-recorded --write $(ARGS)

bench-mask-qualities: $(STAMP)
	$(RUN).tools.quality --tables masks --seeds 1 --as-recorded --write $(ARGS)

bench-relatives: $(STAMP)
	$(RUN).tools.quality --tables relatives --as-recorded --write $(ARGS)

bench-options: $(STAMP)
	$(RUN).tools.quality --tables options --settings same_shoot --as-recorded --write $(ARGS)

bench-masks: $(STAMP)
	$(RUN).tools.masks --write $(ARGS)

bench-scoring: $(STAMP)
	$(RUN).tools.scoring --write $(ARGS)

bench-speed: $(STAMP)
	$(RUN).tools.speed --write $(ARGS)

bench-studio: $(STAMP)
	$(RUN).tools.studio --write $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/basedpyright

$(STAMP): pyproject.toml tools/setup.sh tools/host.py tools/models.py
	PYTHON="$(PYTHON)" sh tools/setup.sh
	touch $(STAMP)

clean:
	rm -rf $(VENV) .host .demo .cache
