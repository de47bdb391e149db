# One door, the same for people and CI.
#   make check   format, lints, floors, grammar of the log, licences, what the documents name
#   make test    every test; installs what the tests need into .venv
#   make bench   figures beside peers, with the command for each
#   make sim     SEEDS=10000 runs of the stream on simulated Kinesis, DynamoDB and S3
#   make fuzz    every decoder under libFuzzer, an hour in total (SECONDS_TOTAL=3600); needs a C++ compiler
#   make soak    200 SIGKILLs during a replay, then an hour of overload (20, and two minutes, in make test)
#   make scale   100 million rows through the ETL under 4 GiB; 1, 10 and 100 million through ETL and training, also under Spark
#   make lambda  the zips of the Lambda functions: target/lambda-zips/<target>/{stream,transform,notify}/bootstrap.zip
#   make wheel   the Python wheel for this machine, installed into .venv
#   make package what terraform/ deploys, in target/package: zips, wheel and the training job
#   make e2e     terraform/ applied to ministack, a week of a grocery chain through it, and taken down again
#   make demo    the README's first command

SHELL := /bin/bash
.DELETE_ON_ERROR:
CARGO ?= cargo
PYTHON ?= python3
VENV := .venv
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release/anabranch
export ANABRANCH_BIN := $(abspath $(BIN))
# The wheel's crate is loaded by Python and links no libpython; maturin sets the same.
export PYO3_BUILD_EXTENSION_MODULE := 1
export ANABRANCH_TEST_DATA ?= $(abspath ../shared/data)
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help check test test-rust test-python test-computing test-watching bench sim fuzz soak scale demo build lambda wheel package e2e tools clean

help:
	@sed -n '2,13s/^# *//p' Makefile

tools:
	@missing=""; for tool in $(CARGO) cc $(PYTHON); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then echo "missing:$$missing (a Rust toolchain, a C compiler and Python >= 3.11 are needed)"; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed, $$($(PYTHON) --version) found"; exit 1; }

$(VENV)/.done: tests/requirements.txt tests/package.json tests/package-lock.json
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	cp tests/package.json tests/package-lock.json $(VENV)/
	cd $(VENV) && PATH="$(abspath $(VENV))/bin:$$PATH" npm ci --silent --no-audit --no-fund --ignore-scripts
	touch $@

# checkov pins what other tests need newer, so it has an environment of its own.
$(VENV)/.checkov: tests/requirements-checkov.txt $(VENV)/.done
	$(PYTHON) -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-checkov.txt
	touch $@

check: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings
	$(PYTHON) scripts/check_floors.py
	$(PYTHON) scripts/check_logs.py
	$(PYTHON) scripts/check_dependencies.py
	$(PYTHON) scripts/check_docs.py

build: tools
	$(CARGO) build --release --locked -p anabranch -p anabranch-lambda -p anabranch-python

test: tools test-rust test-python

# The release profile is the only one: tests, demo and benches share every compiled crate.
test-rust: build
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --release --workspace --locked --no-fail-fast
else
	@echo "cargo-nextest is not installed: running cargo test"
	$(CARGO) test --release --workspace --locked --no-fail-fast -- --quiet
endif

# The wheel for this machine, installed where the tests run. `build` has compiled it together with the programs, with one
# set of features; python/cargo.sh hands that to maturin, so that no crate is compiled twice.
wheel: build $(VENV)/.done
	rm -rf $(TARGET)/wheels
	CARGO="$(abspath python/cargo.sh)" $(VENV)/bin/maturin build --release --locked --manifest-path python/Cargo.toml \
		--interpreter $(VENV)/bin/python --compatibility linux --out $(TARGET)/wheels --quiet
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $(TARGET)/wheels/anabranch-*.whl

# Two at a time: those of the nightly job, the wheel and Terraform compute, the others wait most of their time for what they watch.
COMPUTING := $(wildcard tests/test_glue_job.py tests/test_terraform.py tests/test_vectors*.py tests/test_wheel*.py tests/test_zips.py)
test-python: wheel $(VENV)/.checkov
	$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target test-computing test-watching

test-computing:
	$(VENV)/bin/python -m pytest -q -rs $(COMPUTING)

test-watching:
	$(VENV)/bin/python -m pytest -q -rs $(filter-out $(COMPUTING),$(wildcard tests/test_*.py))

e2e: wheel
	$(VENV)/bin/python -m pytest -q -rs tests/e2e

bench: wheel
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	$(VENV)/bin/python bench/run.py

# A failure prints its seed and the command that repeats it. FIRST is the first seed.
SEEDS ?= 10000
FIRST ?= 0
sim: tools
	ANABRANCH_SIM_SEEDS=$(SEEDS) ANABRANCH_SIM_FIRST=$(FIRST) $(CARGO) test --release --locked --workspace --test simulation many_seeds -- --nocapture

# TARGETS="history snapshot" names some. Goes on where the last run ended; what fails lies in target/fuzz/artifacts/.
export SECONDS_TOTAL ?= 3600
fuzz: tools
	CARGO="$(CARGO)" fuzz/run.sh

soak: build $(VENV)/.done
	ANABRANCH_SOAK_KILLS=200 $(VENV)/bin/python -m pytest -q -rs tests/test_soak.py
	ANABRANCH_OVERLOAD_S=3600 $(VENV)/bin/python -m pytest -q -rs -s tests/test_overload.py

scale: wheel
	$(PYTHON) bench/scale.py --rows 100000000
	$(VENV)/bin/python bench/scale.py --curve 1000000 10000000 100000000

# Debian's glibc is newer than Lambda's: zig links against the one of Amazon Linux 2023. Both come from PyPI.
CARGO_LAMBDA := 1.9.2
ZIGLANG := 0.17.1
LAMBDA_TARGETS := x86_64-unknown-linux-gnu $(if $(wildcard $(shell rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu),aarch64-unknown-linux-gnu)

$(VENV)/.lambda: $(VENV)/.done
	$(VENV)/bin/pip install --quiet --disable-pip-version-check cargo-lambda==$(CARGO_LAMBDA) ziglang==$(ZIGLANG)
	touch $@

lambda: tools $(VENV)/.lambda
	@case "$(LAMBDA_TARGETS)" in *aarch64*) ;; *) echo "no arm64 zips: the target's std is not installed (rustup target add aarch64-unknown-linux-gnu)";; esac
	for target in $(LAMBDA_TARGETS); do \
		PATH="$(abspath $(VENV))/bin:$$PATH" $(CARGO) lambda build --locked --package anabranch-lambda --profile lambda \
			--target $$target --output-format zip --lambda-dir $(TARGET)/lambda-zips/$$target || exit 1; \
	done
	$(PYTHON) scripts/check_zips.py $(TARGET)/lambda-zips
	@ls -l $(TARGET)/lambda-zips/*/*/bootstrap.zip

# In the folder that terraform's package_folder names. Glue's workers are x86-64, whatever the functions are.
PACKAGE := target/package
package: lambda
	rm -rf $(PACKAGE)
	for target in $(LAMBDA_TARGETS); do \
		case $$target in aarch64*) machine=arm64;; *) machine=x86_64;; esac; mkdir -p $(PACKAGE)/$$machine || exit 1; \
		for function in stream transform notify; do \
			cp $(TARGET)/lambda-zips/$$target/$$function/bootstrap.zip $(PACKAGE)/$$machine/$$function.zip || exit 1; \
		done; \
	done
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/maturin build --release --locked --zig --target x86_64-unknown-linux-gnu \
		--compatibility manylinux_2_28 --manifest-path python/Cargo.toml --out $(PACKAGE)
	cp scripts/glue_job.py $(PACKAGE)/
	@ls -l $(PACKAGE) $(PACKAGE)/*

demo: tools
	$(CARGO) run --release --locked -- demo

clean:
	rm -rf target $(VENV) anabranch-data
