# `make help` lists the targets. Needs only make and Python 3.11 or newer; everything else goes into .venv.

comma  := ,
PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.installed
DEMO   := $(VENV)/.installed-demo
DOCS   := $(VENV)/.installed-docs
PY     := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo demo-zh demo-serve test test-slow lint types docs protos bench test-pythons api-check lock sbom audit clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# $(call install,EXTRAS). Not byte-compiled: most of what torch and scipy install is never imported, and Python compiles
# the rest on first use.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is Python {sys.version.split()[0]}; PALM needs 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "==> installing PALM into $(VENV) (once, about a minute)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e '.[$(1)]'
endef

$(READY): pyproject.toml constraints.txt
	$(call install,train$(comma)serve$(comma)dev)
	@touch $(DEMO) $@

# Two thirds of the megabytes: neither OpenVINO nor what only tests need.
$(DEMO): pyproject.toml constraints.txt
	$(call install,train$(comma)serve-base$(comma)http)
	@touch $@

$(DOCS): pyproject.toml constraints.txt
	$(call install,train$(comma)serve$(comma)dev$(comma)docs)
	@touch $(DEMO) $(READY) $@

demo: $(DEMO)  ## train, export and serve the English sample, and ask it three sentences
	@examples/demo.sh demo \
		"play some jazz in the kitchen" \
		"what's the weather like in lisbon tomorrow?" \
		"set a timer for twenty minutes"

demo-zh: $(DEMO)  ## the same for the Chinese sample, trained from scratch
	@examples/demo.sh demo-zh "明天北京天气怎么样" "播放周杰伦的歌" "定一个十分钟的闹钟"

demo-serve: $(DEMO)  ## serve the English sample until Ctrl-C, with a page for the browser
	@examples/demo_serve.sh demo

test: lint types  ## lint, types and the quick tests
	@echo "==> tests"
	@$(PY) -m pytest -m "not slow" -n auto --dist worksteal $(PYTEST_OPTIONS)

test-slow: $(READY)  ## the tests that take minutes; PALM_DATA=DIR adds those on public data
	@$(PY) -m pytest -m slow -rs -n auto --dist worksteal $(PYTEST_OPTIONS)

lint: $(READY)  ## ruff: rules and format
	@echo "==> lint"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) .ci/style.py

types: $(READY)  ## mypy, strict, on both packages
	@echo "==> types"
	@$(PY) -m mypy

docs: $(DOCS)  ## the site of the documentation in build/docs; open build/docs/index.html
	@echo "==> docs"
	@$(PY) -m sphinx -q -E -W --keep-going -n -b html docs build/docs

protos: $(READY)  ## generate the gRPC stubs from protos/
	@cd protos && find . -name '*.proto' -exec $(CURDIR)/$(PY) -m grpc_tools.protoc \
		-I . --python_out=.. --pyi_out=.. --grpc_python_out=.. {} +
	@# Clients of the protocol register its names in the default pool.
	@sed -i.bak 's/_descriptor_pool\.Default()/_descriptor_pool.DescriptorPool()/' palm_serve/oip/inference_pb2.py
	@rm palm_serve/oip/inference_pb2.py.bak

bench: $(READY)  ## every measurement of benchmarks/, each prints a table (tens of minutes)
	@set -e; for script in benchmarks/*.py; do echo "==> $$script"; $(PY) $$script; done

# uv, cyclonedx-py, pip-audit, nox and griffe, in an environment of their own: they are no part of the product.
TOOLS := build/tools
$(TOOLS)/.installed: requirements/tools.txt
	@test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install -qq --disable-pip-version-check -r requirements/tools.txt
	@touch $@

test-pythons: $(TOOLS)/.installed  ## make test on Python 3.11, 3.12 and 3.13, those that are installed
	@$(TOOLS)/bin/nox

api-check: $(TOOLS)/.installed  ## breaks of the public Python API since REF=COMMIT, by default the last tag
	@$(TOOLS)/bin/python .ci/api_check.py $(REF)

COMPILE := $(TOOLS)/bin/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate \
	--custom-compile-command "make lock"

lock: $(TOOLS)/.installed  ## write requirements/*.lock: every version with its SHA-256, from the index
	@echo "setuptools" | $(COMPILE) - -c constraints.txt -o requirements/build.lock
	@$(COMPILE) pyproject.toml --extra serve --extra otel -c constraints.txt -o requirements/serve.lock
	@$(COMPILE) pyproject.toml --extra serve-gpu --extra otel -c constraints.txt -o requirements/serve-gpu.lock
	@$(COMPILE) pyproject.toml --extra train --extra serve -c constraints.txt -o requirements/train.lock
	@$(COMPILE) pyproject.toml --extra e5-small-zh -c constraints.txt -o requirements/e5-small-zh.lock

sbom: $(TOOLS)/.installed  ## write build/*.cdx.json: the components of each lock file (CycloneDX)
	@set -e; for name in serve serve-gpu train e5-small-zh; do \
		$(TOOLS)/bin/cyclonedx-py requirements requirements/$$name.lock --pyproject pyproject.toml --mc-type application \
			--output-reproducible --output-format JSON --output-file build/$$name.cdx.json; \
		echo "build/$$name.cdx.json"; done

audit: $(TOOLS)/.installed  ## compare the lock files with the advisories of PyPI, which it asks
	@set -e; for name in serve serve-gpu train e5-small-zh; do \
		$(TOOLS)/bin/pip-audit --disable-pip --require-hashes --strict -r requirements/$$name.lock; done

clean:  ## remove .venv, caches, and what the demos left
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf runs/demo runs/demo-zh bundles/demo bundles/demo-zh
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
