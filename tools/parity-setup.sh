#!/usr/bin/env bash
# A Python environment with other people's implementations, for `make parity` and `make smollm2`: .deps/parity of this
# checkout. With the argument `peers` the one for bench/peers/trl.py: .deps/peers. assay itself never needs either.
# Repeatable: a stamp holds the hash of tools/parity-requirements.txt (peers-requirements.txt), and an interrupted run is
# simply run again (pip keeps what it has).
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'parity-setup: %s\n' "$*"; }

name=${1:-parity}
requirements=tools/$name-requirements.txt
if [ ! -f "$requirements" ]; then
  say "there is no $requirements; the environments are called parity and peers" >&2
  exit 2
fi
folder=$PWD/.deps/$name
stamp=$folder/.requirements.sha256
want=$(cat tools/parity-requirements.txt "$requirements" | sha256sum | cut -d' ' -f1)
[ "$name" != parity ] || want=$(sha256sum "$requirements" | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
  say "ready ($folder)"
  exit 0
fi

if [ ! -x "$folder/bin/python" ]; then
  python=${PYTHON:-python3}
  if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    say "$python is not a Python 3.10 or newer with venv; as root, type: apt-get install python3-venv (or name another Python: PYTHON=… $0)" >&2
    exit 1
  fi
  say "making a virtual environment in $folder with $("$python" --version)"
  mkdir -p "$folder"
  "$python" -m venv "$folder"
fi
say "installing $requirements (some GB; a minute on a fast line)"
log=$folder/install.log
if ! "$folder/bin/python" -m pip install --disable-pip-version-check -r "$requirements" >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  say "pip failed (all of it: $log); run this again when the cause is gone" >&2
  exit 1
fi
echo "$want" > "$stamp.part"
mv "$stamp.part" "$stamp"
say "ready ($folder)"
