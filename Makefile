# Two commands are enough: `make demo` and `make test`. Each sets up its own .venv first.
# All paths are relative, so that a clone may lie anywhere, also below a folder with a space in its name.
PYTHON ?= python3
BIN := .venv/bin
SEVLM := $(BIN)/python -m sevlm
# How pages and tests are run; tools/portable.py asks for other THREADS, and for some PAGES (a pattern) and TESTS (words for pytest).
THREADS := 1
IN_PLACE = SEVLM_CACHE="$(CURDIR)/build/cache" OMP_NUM_THREADS=$(THREADS)
PYTEST = $(IN_PLACE) $(BIN)/python -m pytest -q -p no:cacheprovider
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test lint check export format notebooks pytest browser portable docs figures lab hooks ledger ideas pool seeds shipped attributes labs labcontrast labmask bench fuzz release lowest coverage audit remake clean distclean
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile | sed 's/: /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

setup:  ## install everything into .venv (about 3 minutes, 7 GB with PyTorch); again after the requirements changed, or to mend it
	@$(PYTHON) tools/setup_env.py $(if $(filter file,$(origin PYTHON)),,--exact)   # a Python that is named is meant

demo: setup  ## make a synthetic data set, train on it, explain paintings (at most 7 minutes on 2 cores)
	$(SEVLM) demo

test: lint check notebooks pytest browser  ## all tests: style, contracts, types, export leaves no difference, notebooks run, pytest, pages in a browser
	@echo "== all passed"

lint: setup  ## style (ruff), contracts of the layers (import-linter), types (mypy)
	@echo "== 1/5 style, contracts, types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

check: setup  ## notebooks are clean, and the modules are what the notebooks export
	@echo "== 2/5 notebooks are clean, modules equal their notebooks"
	$(BIN)/python tests/check_exported.py

export: setup  ## write the modules in sevlm/ from the notebooks
	$(BIN)/python tools/export.py

format: setup  ## put notebooks, tests and tools into the one style, then export
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/export.py

notebooks: setup
	@echo "== 3/5 notebooks run, two side by side, OMP_NUM_THREADS=$(THREADS)"
	$(IN_PLACE) $(BIN)/nbdev_test --do_print --timing $(if $(PAGES),--path 'nbs/$(dir $(PAGES))' --file_glob '$(notdir $(PAGES))')

pytest: setup
ifdef TESTS
	@echo "== 4/5 pytest, some tests, OMP_NUM_THREADS=$(THREADS)"
	$(PYTEST) $(TESTS)
else
	@echo "== 4/5 pytest, in two halves side by side, OMP_NUM_THREADS=$(THREADS)"
	@mkdir -p build; \
	$(PYTEST) tests/test_[a-k]*.py > build/pytest-a-k.log 2>&1 & first=$$!; \
	trap "kill $$first" INT TERM; \
	$(PYTEST) tests/test_[!a-k]*.py; second=$$?; \
	wait $$first; first=$$?; cat build/pytest-a-k.log; test $$first -eq 0 -a $$second -eq 0
endif

# In tests/browser, and not among tests/test_*: one JupyterLab serves all of them, so they are not halved.
browser: setup  ## course pages and the explorer in JupyterLab, in a real browser (skipped without one; pictures in build/browser)
	@echo "== 5/5 pages in a browser, OMP_NUM_THREADS=$(THREADS)"
	$(PYTEST) -rs tests/browser

portable: setup  ## all pages and tests as other processors compute them (an hour on 2 cores; goes on where it was broken off)
	$(BIN)/python tools/portable.py $(PORTABLE)

figures: setup  ## draw the pictures in figures/ anew: every page that draws, and the demo (about 15 minutes)
	$(SEVLM) demo --figures figures
	for page in $$(grep -l 'save_figure(\|figures_folder()' nbs/*/*.ipynb nbs/course/play/*.ipynb); do \
		$(IN_PLACE) SEVLM_FIGURES="$(CURDIR)/figures" $(BIN)/nbdev_test --do_print --path $$page || exit 1; \
	done

docs: setup  ## the site: course, studies, library and API reference as pages in build/site/html (about two minutes; MathJax is fetched once)
	$(BIN)/python tools/make_site.py

lab: setup  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

hooks: setup  ## once per clone, for contributors: clean notebooks on merge (nbdev)
	$(BIN)/nbdev_install_hooks

# The grids: what all runs share is made once, and each command goes on where it was broken off.
GRID_SEEDS := 5
GRID_SETTINGS := epochs=2 lookup=word lr_decoder=3e-4
GRID := --gpt2 'runs/captioners/captioner/seed-{seed}/last' --test data/grid-test --judge data/grid-judged --seeds $(GRID_SEEDS) --workers 2

.PHONY: captioners
captioners: setup  # a captioning decoder per seed, without any of the three ideas; a reader of emotions; the paintings of the grids
	$(SEVLM) mini data/grid-captions --paintings 2400 --seed 7
	$(SEVLM) mini data/grid-train --paintings 4000 --seed 11
	$(SEVLM) mini data/grid-test --paintings 500 --seed 12
	$(SEVLM) mini data/grid-judged --paintings 10000 --seed 13
	$(SEVLM) ablate data/grid-captions --grid captioner --out runs/captioners --seeds $(GRID_SEEDS) --workers 2 --set epochs=4 lookup=word
	$(SEVLM) listener data/grid-captions --out runs/grid-listener

ledger: captioners  ## price every correction of the released code anew (about an hour; goes on where it was broken off)
	$(SEVLM) ablate data/grid-train --grid corrections $(GRID) --out runs/corrections --set $(GRID_SETTINGS)
	cp runs/corrections/judged.npz nbs/data/corrections_judged.npz
	gzip -nc runs/corrections/rows.csv > nbs/data/corrections_rows.csv.gz
	@echo "== now run nbs/analysis/a5_ledger.ipynb"

ideas: captioners  ## the paper's three ideas in all combinations, weights of their losses, five seeds each (about an hour; goes on where it was broken off)
	$(SEVLM) ablate data/grid-train --grid factorial $(GRID) --listener runs/grid-listener --out runs/factorial --set $(GRID_SETTINGS)
	cp runs/factorial/judged.npz nbs/data/factorial_judged.npz
	gzip -nc runs/factorial/rows.csv > nbs/data/factorial_rows.csv.gz
	@echo "== now run nbs/analysis/a2_ablations.ipynb and a3_qualitative.ipynb"

labs: setup  ## the laboratories of fusion and of the VAD head, six seeds or more (about 10 minutes; goes on where it was broken off)
	OMP_NUM_THREADS=1 $(BIN)/python -c "from sevlm.studies.lab_words import store_labs; store_labs('runs/labs', 'nbs/data')"
	@echo "== now run nbs/studies/lab_fusion.ipynb and lab_vad_head.ipynb"

pool: setup  ## what handing on fewer patches costs, three seeds (about 12 minutes; goes on where it was broken off)
	$(SEVLM) mini data/ideas-train --paintings 1500 --seed 11
	$(SEVLM) mini data/ideas-test --paintings 400 --seed 12
	$(SEVLM) ablate data/ideas-train --test data/ideas-test --grid pool --seeds 3 --out runs/pool --set epochs=3 lookup=word --workers 2
	gzip -nc runs/pool/rows.csv > nbs/data/pool_rows.csv.gz
	@echo "== now run nbs/analysis/a4_efficiency.ipynb"

SEEDS := 0 1 2
runs/seeds-%/.done: | setup
	$(SEVLM) demo --seed $* --out runs/seeds-$*
	@touch $@

seeds: $(SEEDS:%=runs/seeds-%/.done)  ## the demo with three seeds, for the tables of README.md and docs/results.md (about 15 minutes; goes on where it was broken off)
	$(BIN)/python tools/results.py $(SEEDS:%=runs/seeds-%)
	@echo "== now run nbs/course/14_training.ipynb"

shipped: setup  ## score the shipped small model on other synthetic paintings, with its most likely and with sampled texts (about 5 minutes)
	$(SEVLM) mini data/grid-captions --paintings 2400 --seed 7
	$(SEVLM) listener data/grid-captions --out runs/grid-listener
	$(SEVLM) mini data/grid-test --paintings 500 --seed 12
	$(SEVLM) evaluate data/grid-test --part all --listener runs/grid-listener --out runs/shipped
	$(SEVLM) evaluate data/grid-test --part all --listener runs/grid-listener --temperature 1 --seed 0 --out runs/shipped-sampled
	cp runs/shipped/metrics.json nbs/data/results/shipped_small_model.json
	cp runs/shipped-sampled/metrics.json nbs/data/results/shipped_small_model_sampled.json
	$(BIN)/python tools/results.py
	@echo "== now run nbs/analysis/a1_main_table.ipynb"

EDITION := second
attributes: setup  ## what image encoder and model make of each attribute: probes and interventions (about 15 minutes; goes on where it was broken off)
	$(BIN)/python tools/attributes.py $(EDITION)
	@echo "== now run nbs/studies/attributes.ipynb"

labcontrast: setup  ## the laboratory of the contrastive loss: 54 small runs (about ten minutes; goes on where it was broken off)
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -c "from sevlm.studies.lab_contrast import *; run_contrast_lab('runs/lab-contrast').to_csv('runs/lab-contrast/rows.csv', index=False)"
	gzip -nc runs/lab-contrast/rows.csv > nbs/data/lab_contrast_rows.csv.gz
	@echo "== now run nbs/studies/lab_contrast.ipynb"

labmask: setup  ## the laboratory of the causal mask: 60 small runs (about five minutes; goes on where it was broken off)
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -c "from sevlm.studies.lab_mask import *; run_mask_lab('runs/lab-mask').to_csv('runs/lab-mask/rows.csv', index=False)"
	gzip -nc runs/lab-mask/rows.csv > nbs/data/lab_mask_rows.csv.gz
	@echo "== now run nbs/studies/lab_mask.ipynb"

bench: setup  ## measure speed against the published way of working, on a quiet machine (about 15 minutes; BENCH='--device cuda' on a card)
	$(BIN)/python benchmarks/bench.py $(BENCH)

fuzz: setup  ## 17,000 generated inputs, damaged or hostile: only own errors, in time, within memory (about 3 minutes; FUZZ='--kinds csv --seed 1')
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/campaign.py $(FUZZ)

release: setup  ## wheel and sdist: build them, look into them, use them in clean environments (RELEASE='--python 3.12 --versions newest')
	$(BIN)/python tools/release.py $(RELEASE)

lowest: setup  ## all tests with every requirement at its lower bound (20 minutes or more; LOWEST='-- tests/test_vad.py')
	$(BIN)/python tools/lowest.py $(LOWEST)

coverage: setup  ## which lines of sevlm/ pages and tests run, by module (an hour or more on 2 cores; COVERAGE='--tests tests/test_vad.py')
	$(BIN)/python tools/covered.py $(COVERAGE)

audit: setup  ## known faults of the tested versions (needs a network)
	$(BIN)/python tools/audit.py

remake: setup  ## make the shipped tokenizer, tower and small model anew (about an hour)
	$(SEVLM) mini --remake

clean:  ## remove what set-up, tests and tools have made
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

distclean: clean  ## also data/ and runs/, with all that was prepared and trained there
	rm -rf data runs
