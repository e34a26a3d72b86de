# Everything a fresh machine needs is Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STEPS ?= 500
ALONE := tests/integration/test_startup.py tests/integration/test_prometheus.py tests/gpu
# Tests start hundreds of processes that import the same modules. Python keeps what it compiles, also where the environment, as
# that of many container images, says that it should not: otherwise each of them would compile all of it once more.
export PYTHONDONTWRITEBYTECODE :=
STDLIB = $(shell $(PYTHON) -c "import sysconfig; print(sysconfig.get_paths()['stdlib'])")
TEXT ?= data/shakespeare/input.txt

.PHONY: demo test test-all coverage tools lm-eval transformers check bench bench-laptop bench-processes bench-start bench-overload bench-faults bench-growing bench-examples bench-tuning bench-embed bench-memory bench-scale bench-goodput bench-sharded bench-large bench-gpu chaos clean bench-recovery site

demo: $(VENV)/.ready  ## train on the standard library's source, about two minutes, and show a sample
	$(BIN)/foundray train examples/python-source/spec.yaml --set data.sources.0.path="$(STDLIB)/*.py" \
		--set train.steps=$(STEPS) --set name=demo-$(STEPS)
	@echo; echo "A sample, continuing 'def ':"; echo
	@$(BIN)/foundray sample runs/demo-$(STEPS) --prompt "def " --tokens 120
	@echo; echo "Look at runs/demo-$(STEPS): spec.yaml, metrics.jsonl, checkpoints/; or: $(BIN)/tensorboard --logdir runs"
	@echo "The command is $(BIN)/foundray; \`source $(BIN)/activate\` makes it \`foundray\` in this terminal"

test: check  ## all checks, and every capability once on real Ray
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone and not thorough"
	$(BIN)/pytest -m "alone and not thorough" $(ALONE)

test-all: check lm-eval transformers  ## all checks and tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/pytest -m alone $(ALONE)

coverage: $(VENV)/.ready-dev  ## the unit tests, and which lines of the packages they leave out: fails below the floor
	$(BIN)/pytest tests/unit -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" --cov

tools:  ## Debian's programs that some tests run, and are skipped without: needs root
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server redis-tools openssl prometheus \
		chromium fonts-dejavu-core openssh-server openssh-client rsync iproute2 curl shellcheck > /dev/null

transformers: $(VENV)/transformers/4.45.2  ## the oldest transformers that reads exports, beside the installed one, for a test

lm-eval: $(VENV)/lm-eval  ## EleutherAI's harness without most of what it depends on, of which three packages have no wheels, for a test

BESIDE := $(BIN)/pip install --quiet --no-compile --no-deps --only-binary :all:

$(VENV)/transformers/4.45.2: | $(VENV)/.ready-dev
	rm -rf $@.part
	$(BESIDE) --target $@.part transformers==4.45.2 tokenizers==0.20.3 huggingface-hub==0.36.0
	mv $@.part $@

$(VENV)/lm-eval: | $(VENV)/.ready-dev
	rm -rf $@.part
	$(BESIDE) --target $@.part lm-eval==0.4.13 sacrebleu==2.6.0 portalocker==4.4.2 tabulate==0.10.0 colorama==0.4.6 lxml==6.1.3
	mv $@.part $@

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

chaos: $(VENV)/.ready-dev  ## twenty seeded schedules of faults on clusters of three to four nodes, about half an hour; CHAOS_TEAM=2 with teams
	CHAOS_RUNS=$${CHAOS_RUNS:-20} $(BIN)/pytest -s tests/chaos

bench: $(VENV)/.ready-dev  ## throughput beside plain PyTorch loops
	$(BIN)/python -m tests.benchmarks.bench_training

bench-laptop: $(VENV)/.ready-dev  ## whole commands and steady steps beside a checkout of nanoGPT, NANOGPT=folder: about a quarter of an hour
	$(BIN)/python -m tests.benchmarks.bench_laptop --nanogpt "$(NANOGPT)" --text "$(TEXT)"

bench-processes: $(VENV)/.ready-dev  ## CPU of every process of a run, per step: about a minute
	$(BIN)/python -m tests.benchmarks.bench_processes

bench-start: $(VENV)/.ready-dev  ## from the command to the first step and the end of a run of 12 steps: about three minutes
	$(BIN)/python -m tests.benchmarks.bench_start

bench-overload: $(VENV)/.ready-dev  ## two runs at once on the same cores: about five minutes
	$(BIN)/python -m tests.benchmarks.bench_overload

bench-faults: $(VENV)/.ready-dev  ## a worker slow, the state copied: beside a peer each
	$(BIN)/python -m tests.benchmarks.bench_skew
	$(BIN)/python -m tests.benchmarks.bench_copying

bench-growing: $(VENV)/.ready-dev  ## from a node that joins to its worker taking part, eight times: about five minutes
	$(BIN)/python -m tests.benchmarks.bench_growing --joins 8

bench-recovery: $(VENV)/.ready-dev  ## a node of three is killed thirty times, beside Ray Train: about 20 minutes
	$(BIN)/python -m tests.benchmarks.bench_recovery

bench-examples: $(VENV)/.ready-dev  ## what the examples reach, with three seeds each: about three hours
	$(BIN)/python -m tests.benchmarks.bench_examples $(EXAMPLES)

bench-tuning: $(VENV)/.ready-dev  ## do rates transfer, does a search pay, does a forecast come true: about an hour
	$(BIN)/python -m tests.benchmarks.bench_transfer
	$(BIN)/python -m tests.benchmarks.bench_tuning

bench-embed: $(VENV)/.ready-dev  ## vectors of 50,000 texts, beside one text at a time
	$(BIN)/python -m tests.benchmarks.bench_embedding

bench-memory: $(VENV)/.ready-dev  ## peak memory of reading and tokenizing a line of 200 MB, by each kind of tokenizer: about two hours
	$(BIN)/python -m tests.benchmarks.bench_memory

bench-sharded: $(VENV)/.ready-dev  ## memory and speed of a model that is split over workers, beside FSDP2: about five minutes
	$(BIN)/python -m tests.benchmarks.bench_sharded

bench-large: $(VENV)/.ready-dev  ## a model of 0.8 billion parameters on one machine, by a team of four workers: a quarter of an hour, 20 GB of memory
	$(BIN)/python -m tests.benchmarks.bench_large

bench-scale: $(VENV)/.ready-dev  ## what thousands of workers cost the actors and the driver, without the workers: about a minute
	$(BIN)/python -m tests.benchmarks.bench_scale

bench-goodput: $(VENV)/.ready-dev  ## a forecast of goodput at 1,000 nodes with a failure every 10 minutes, beside two peers, TRACE=file for spot instances: several minutes
	$(BIN)/python -m tests.benchmarks.bench_goodput $(if $(TRACE),--trace "$(TRACE)")

bench-gpu: $(VENV)/.ready-dev  ## on a GPU: speed and memory beside a plain PyTorch loop
	$(BIN)/python -m tests.benchmarks.bench_gpu --sizes 124M 1B --compiled

site: $(VENV)/.ready-docs  ## the documents as a site, in build/site; it opens from there, and needs no network
	$(BIN)/python website/stage.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file website/mkdocs.yml
	@echo "Open build/site/index.html"

clean:
	rm -rf $(VENV) runs

# Python compiles what it imports; compiling all that is installed would take as long as installing it.
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) ".[all]"
	touch $@

$(VENV)/.ready-docs: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) ".[docs]"
	touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) ".[dev]"
	touch $(VENV)/.ready $@  # which has all of the other
