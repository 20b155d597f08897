# The two commands: make demo, make test. Both make .venv first; see tools/environment.py.
PYTHON ?= python3
ENVIRONMENT := $(PYTHON) tools/environment.py
# A process more than cores; -n 0 in ARGS leaves it at one, as --pdb does.
PYTEST := python -m pytest -n auto --maxprocesses 8
# A subcommand of dust3r-eval on the recorded scenes, where there are some, with when and at what commit it ran.
define evaluate
data="../shared/data"; test -d "$$data" || echo "$@: no folder $$data: only rendered worlds are measured"; \
	DUST3R_EVAL_DATE="$${DUST3R_EVAL_DATE:-$$(date +%F)}" \
	DUST3R_EVAL_COMMIT="$${DUST3R_EVAL_COMMIT:-$$(git describe --always --dirty 2>/dev/null)}" \
	$(ENVIRONMENT) test -- python -m dust3r_ros.cli.eval $(1) $$(test -d "$$data" && echo --data "$$data")
endef

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint docs eval backends bench bench-network bench-peers bench-alignment bench-live bench-stay bench-fleet bench-join bench-pieces bench-inference soak kills fuzz calibration bent walks live-walks live-drives paced-drives albums digests bench-training gpu-day env clean python

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

demo: python  ## map a rendered room with the real node, results in demo_output/
	@$(ENVIRONMENT) demo -- python -m dust3r_ros.node.tools.demo --out demo_output

test: python  ## all tests but the long ones (ARGS="-k name" passes options to pytest)
	@$(ENVIRONMENT) test -- $(PYTEST) $(ARGS)

test-long: python  ## all tests
	@$(ENVIRONMENT) test -- $(PYTEST) -m "long or not long" $(ARGS)

lint: python  ## ruff and mypy; packages with known vulnerabilities, where pip-audit gets an answer
	@$(ENVIRONMENT) test -- ruff check .
	@$(ENVIRONMENT) test -- mypy
	@$(ENVIRONMENT) test -- python tools/audit.py

docs: python  ## the docs as a site with search, into build/site/index.html
	@$(ENVIRONMENT) docs -- python -m mkdocs build --strict $(ARGS)

eval: python  ## every scene and rendered world beside peers, into results/eval/ and docs/results.md, half an hour (ARGS=...)
	@$(call evaluate,suite) \
	  --out results/eval --page docs/results.md --pycolmap results/pycolmap $(ARGS)

backends: python  ## two_view, the network and both on every scene, into docs/backends.md (CHECKPOINT=..., ARGS=...)
	@$(call evaluate,backends) \
	  --checkpoint "$(CHECKPOINT)" --out results/backends --page docs/backends.md $(ARGS)

bench: python  ## real sequences into results/sequences.md, pairs per second (needs the reference data)
	@$(ENVIRONMENT) test -- python benchmarks/sequences.py
	@$(ENVIRONMENT) test -- python benchmarks/two_view.py

bench-network: python  ## true depth with the errors of a network, alone and with geometry, beside targets (ARGS="--cases list")
	@$(ENVIRONMENT) test -- python benchmarks/pointmaps.py $(ARGS)

bench-peers: python  ## beside pycolmap's four methods, by kind of recording, an hour, into docs/peers.md (ARGS="--cases list")
	@$(ENVIRONMENT) test -- python benchmarks/peers.py --page docs/peers.md $(ARGS)

bench-alignment: python  ## alignment against the published scheme, a long run, tracking: one table
	@failed=0; for name in alignment incremental tracking; do \
	  rm -f results/$$name.json results/$$name.png; \
	  $(ENVIRONMENT) test -- python benchmarks/$$name.py || failed=1; \
	done; $(ENVIRONMENT) test -- python benchmarks/summary.py || failed=1; exit $$failed

bench-live: python  ## the live node at the camera's rate, over DDS on two cores, into docs/live.md (ARGS="--cases walk-30")
	@data="../shared/data"; $(ENVIRONMENT) test -- python benchmarks/live.py --data "$$data" --page docs/live.md $(ARGS)

bench-stay: python  ## a camera that stays in one place, live and offline, half an hour: does the map stop growing? Into docs/reliability.md (ARGS="--passes 8")
	@$(ENVIRONMENT) test -- python benchmarks/stay.py --page docs/reliability.md $(ARGS)

bench-fleet: python  ## twelve recordings by two processes and by one, asked for again, and with a shared network, into docs/fleet.md (ARGS="--data FOLDER")
	@$(ENVIRONMENT) test -- python benchmarks/fleet.py --page docs/fleet.md $(ARGS)

bench-join: python  ## three recordings of one place, one of another, 20 draws: what is joined? Into docs/fleet.md (ARGS="--draws 4")
	@$(ENVIRONMENT) test -- python benchmarks/joining.py --page docs/fleet.md $(ARGS)

bench-pieces: python  ## long recordings in pieces by 1 and 4 processes, and in one: bytes, error, cost. Into docs/fleet.md
	@$(ENVIRONMENT) test -- python benchmarks/pieces.py --data ../shared/data --page docs/fleet.md $(ARGS)

soak: python  ## 100,000 images through the node, an hour: memory, latencies, handles, into docs/reliability.md (ARGS="--images 6000")
	@$(ENVIRONMENT) test -- python benchmarks/soak.py --page docs/reliability.md $(ARGS)

kills: python  ## SIGKILL at random moments while a map is made and written: is all there? Into docs/reliability.md (ARGS="--kills 10")
	@$(ENVIRONMENT) test -- python benchmarks/kills.py --page docs/reliability.md $(ARGS)

fuzz: python  ## 10,000 damaged files and messages: right, or a sentence? Into docs/reliability.md (ARGS="--only map --seed 1")
	@$(ENVIRONMENT) test -- python benchmarks/fuzz.py --page docs/reliability.md $(ARGS)

calibration: python  ## focal lengths of recordings and of two seconds of them: errors, deviations, into docs/my-calibration.md
	@$(ENVIRONMENT) test -- python benchmarks/calibration.py --page docs/my-calibration.md $(ARGS)

bent: python  ## maps that would be bent or folded: prevented, repaired or said? Into docs/reliability.md (ARGS="--cases list")
	@$(ENVIRONMENT) test -- python benchmarks/bent.py --page docs/reliability.md $(ARGS)

walks: python  ## 64 random walks through rendered worlds of all kinds, none of which anything was chosen on, into docs/reliability.md (ARGS="--count 16")
	@$(ENVIRONMENT) test -- python benchmarks/walks.py --page docs/reliability.md $(ARGS)

albums: python  ## photographs of as many cameras, each with a focal of its own, beside pycolmap, into docs/reliability.md (ARGS="--count 4")
	@$(ENVIRONMENT) test -- python benchmarks/albums.py --page docs/reliability.md $(ARGS)

live-walks: python  ## 16 such walks live, through the real node, into docs/live.md (ARGS="--count 4")
	@$(ENVIRONMENT) test -- python benchmarks/live_walks.py --page docs/live.md $(ARGS)

live-drives: python  ## 8 robots that turn on the spot, live, through the real node, into docs/live.md (ARGS="--count 4")
	@$(ENVIRONMENT) test -- python benchmarks/live_drives.py --page docs/live.md $(ARGS)

paced-drives: python  ## the same drives in lock step: how long may a keyframe take? Into docs/live.md (ARGS="--count 4")
	@$(ENVIRONMENT) test -- python benchmarks/paced_drives.py --page docs/live.md $(ARGS)

digests: python  ## the same inputs as ever mapped, a digest of each product, into results/digests.txt (ARGS="--against FILE")
	@$(ENVIRONMENT) test -- python benchmarks/digests.py $(ARGS)

bench-inference: python  ## the network beside its plain forward pass, tiny to ViT-L, CPU and GPU, into docs/inference.md (ARGS="--sizes mini")
	@$(ENVIRONMENT) test -- python benchmarks/inference.py --page docs/inference.md $(ARGS)

bench-training: python  ## rendered worlds, training steps: pairs per second, into results/
	@for name in raycast training; do $(ENVIRONMENT) test -- python benchmarks/$$name.py || exit; done

gpu-day:  ## half an hour of a GPU into weights (MINUTES=25 OUT=gpu_day), by this python, which needs torch
	@$(PYTHON) -m dust3r_ros.cli.gpu_day --minutes $(or $(MINUTES),25) --out "$(or $(OUT),gpu_day)" $(ARGS)

env: python  ## make or update .venv with everything and run nothing
	@$(ENVIRONMENT) test

clean:  ## remove .venv and everything built
	rm -rf .venv build install log demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "no '$(PYTHON)' found: install Python 3.10 to 3.13, or name it with 'make PYTHON=/path/to/python3'" >&2; exit 2; }
