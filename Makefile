# `make` says what there is. The work is in scripts/, which can be run directly.
.PHONY: help build install demo test kill-test fuzz format tidy clean
export FUZZ_SECONDS ?= 600
PREFIX ?= /usr/local

help:
	@echo 'make build      install what is missing; the program build/upmoe; Python in .venv'
	@echo 'make install    put what is built under PREFIX=$(PREFIX) (docs/install.md)'
	@echo 'make demo       convert a real model and let transformers run it; MODEL=folder-or-hub-id for your own'
	@echo 'make test       every test: C++, and Python under transformers 5 and 4; .ci/run has more presets'
	@echo 'make kill-test  kill a conversion at UPMOE_KILLS=1000 random points, resume it, compare the bytes'
	@echo 'make fuzz       every fuzz target for FUZZ_SECONDS=$(FUZZ_SECONDS), or FUZZ_RUNS=10000000 executions'
	@echo 'make format     clang-format over the C++ sources'
	@echo 'make tidy       clang-tidy over the C++ sources'
	@echo 'make clean      delete build/; the Python environments and models/ stay'

build:
	@scripts/setup
	@scripts/build release

install:
	@scripts/install '$(PREFIX)'

demo:
	@scripts/demo

test:
	@scripts/test

kill-test:
	@scripts/kill-test

fuzz:
	@scripts/fuzz

format:
	@scripts/setup tools
	@scripts/format

tidy:
	@scripts/setup tools
	@scripts/build tidy-engine

clean:
	rm -rf build
