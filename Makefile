# The two commands: `make e13` runs the E13 series and prints its table, `make test` runs every test.
# Both set up and build first; each step does only what is missing.
BUILD := build/default
JOBS  := $(shell nproc)

.PHONY: build programs configure setup e13 test browser parity smollm2 asan fuzz valgrind clean
build: configure
	@cmake --build --preset all --parallel $(JOBS)

# Without the tests, which take longer than the programs do.
programs: configure
	@cmake --build --preset default --parallel $(JOBS)

# Again when nvcc or cuBLAS's headers have come since.
configure: setup
	@[ -e $(BUILD)/build.ninja ] && ! [ .deps/cuda/.complete -nt $(BUILD)/build.ninja ] && \
	  ! [ .deps/cublas/.complete -nt $(BUILD)/build.ninja ] || cmake --preset default

setup:
	@tools/setup.sh

e13: programs
	@$(BUILD)/bin/assay run e13

test: build
	@tools/setup.sh tests
	@ctest --preset default

# The web page in a real browser, part of `make test` too; says SKIPPED where there is no Chromium.
browser: build
	@ctest --preset default -R browser_tests --verbose

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

# libFuzzer on every FP4 mode, series files, the console parsers, lines of metrics and the daemon's socket, for FUZZ_SECONDS each; what it
# finds worth keeping goes to build/fuzz/corpus*, findings to build/fuzz.
FUZZ_SECONDS ?= 60
fuzz: setup
	@command -v clang++-19 >/dev/null && ls /usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.fuzzer-x86_64.a >/dev/null 2>&1 || \
	  { echo "make fuzz needs clang: sudo apt-get install --no-install-recommends clang-19 libclang-rt-19-dev" >&2; exit 1; }
	@[ -e build/fuzz/build.ninja ] || cmake --preset fuzz
	@cmake --build build/fuzz --parallel $(JOBS) --target quant_fuzz series_fuzz verl_fuzz metrics_fuzz protocol_fuzz
	@mkdir -p build/fuzz/corpus
	@build/fuzz/bin/quant_fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=512 -len_control=0 -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/finding- build/fuzz/corpus tests/fuzz/corpus/quant
	@mkdir -p build/fuzz/corpus-series && cp experiments/*/*.toml build/fuzz/corpus-series
	@build/fuzz/bin/series_fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/series-finding- build/fuzz/corpus-series tests/experiments/bad
	@mkdir -p build/fuzz/corpus-verl
	@build/fuzz/bin/verl_fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/verl-finding- build/fuzz/corpus-verl tests/fuzz/corpus/verl
	@for target in metrics protocol; do mkdir -p build/fuzz/corpus-$$target; \
	  build/fuzz/bin/$${target}_fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/finding-$$target- build/fuzz/corpus-$$target tests/fuzz/corpus/$$target || exit 1; done

# Memory errors in the FP4 paths that Valgrind knows: scalar, SSE2 and AVX2. The statistics are left out: they only cost time.
valgrind: configure
	@command -v valgrind >/dev/null || { echo "make valgrind needs it: sudo apt-get install valgrind" >&2; exit 1; }
	@cmake --build --preset default --parallel $(JOBS) --target quant_test quant_fuzz_test
	@valgrind -q --error-exitcode=1 $(BUILD)/bin/quant_test "~error on*" "~how often*" "~without the fp32*" "~the published*" \
	  "~all paths give*"
	@valgrind -q --error-exitcode=1 $(BUILD)/bin/quant_fuzz_test "*corpus*"

clean:
	rm -rf build
