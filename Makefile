# The two commands: `make e13` runs the E13 series and prints its table, `make test` runs every test.
# Both set up and build first; each step does only what is missing.
BUILD := build/default
JOBS  := $(shell nproc)

.PHONY: build programs configure setup e13 test parity smollm2 asan clean
build: configure
	@cmake --build --preset default --parallel $(JOBS)

# Without the tests, which take as long again.
programs: configure
	@cmake --build --preset default --parallel $(JOBS) --target assay assay-train

# Again when nvcc has come since.
configure: setup
	@[ -e $(BUILD)/build.ninja ] && ! [ .deps/cuda/.complete -nt $(BUILD)/build.ninja ] || cmake --preset default

setup:
	@tools/setup.sh

e13: programs
	@$(BUILD)/bin/assay run e13

test: build
	@ctest --preset default

# Our numbers against transformers, peft, torchao, ml_dtypes, tokenizers and scipy, in a virtual environment of its own.
parity: build smollm2
	@tests/parity/run $(BUILD)

# A real pretrained model, SmolLM2-135M-Instruct, as an ordinary Hugging Face folder in .cache/.
smollm2: setup
	@tools/fetch_smollm2.sh

asan: setup
	@[ -e build/asan/build.ninja ] || cmake --preset asan
	@cmake --build --preset asan --parallel $(JOBS)
	@ctest --preset asan

clean:
	rm -rf build
