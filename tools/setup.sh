#!/usr/bin/env bash
# Installs what the build needs and only what is missing; says what it does; may be repeated or interrupted.
#   Debian packages   tools/debian-packages, by apt (as root, or through sudo when that asks no password)
#   LibTorch          tools/libtorch.lock, from PyPI into .deps/torch of this checkout, each wheel checked by SHA-256
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'setup: %s\n' "$*"; }

# ---- Debian packages -------------------------------------------------------------------------------------------
present() {  # FILE|FILE or $ COMMAND, as tools/debian-packages writes it
  case $1 in
    '$ '*) bash -c "${1#'$ '}" >/dev/null 2>&1;;
    *) local file; for file in ${1//|/ }; do [ -e "$file" ] && return; done; return 1;;
  esac
}
missing=()
while read -r package _what check; do
  case $package in ''|\#*) continue;; esac
  present "$check" || missing+=("$package")
done < tools/debian-packages

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then as_root=(env)
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo env)
  else
    say "these Debian packages are missing; type this, then run setup again:" >&2
    printf '  sudo apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
    exit 1
  fi
  say "installing Debian packages: ${missing[*]}"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  # An apt that another program holds the lock of is waited for, not failed on.
  apt=("${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
  fi
fi

# ---- LibTorch --------------------------------------------------------------------------------------------------
deps=$PWD/.deps
want=$(sha256sum tools/libtorch.lock | cut -d' ' -f1)

# Where PyPI (or the mirror that pip is configured for) keeps the one file of a package that has this hash.
wheel_url() {  # package==version sha256
  python3 -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --no-deps --target "$deps/none" \
    --only-binary=:all: --python-version 311 --implementation cp --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_12_x86_64 \
    --report - --require-hashes --requirement <(echo "$1 --hash=sha256:$2") |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["download_info"]["url"])'
}

if [ "$(cat "$deps/torch/.complete" 2>/dev/null)" != "$want" ]; then
  mkdir -p "$deps/download"
  rm -rf "$deps/torch" "$deps/torch.part"
  mkdir "$deps/torch.part"
  while read -r package sha; do
    case $package in ''|\#*) continue;; esac
    file=$deps/download/$package.whl
    if ! { [ -e "$file" ] && echo "$sha  $file" | sha256sum --check --status; }; then
      say "downloading $package"
      url=$(wheel_url "$package" "$sha")
      # --continue-at resumes what an interrupted download left behind; pip by itself would begin again.
      curl --fail --silent --show-error --location --retry 5 --continue-at - --output "$file.part" "$url"
      if ! echo "$sha  $file.part" | sha256sum --check --status; then
        rm -f "$file.part"
        say "the wheel of $package does not have the SHA-256 in tools/libtorch.lock and was deleted; run setup again" >&2
        exit 1
      fi
      mv "$file.part" "$file"
    fi
    say "unpacking $package"
    # Headers and CPU libraries. The CUDA half of the wheel serves GPU machines only, which bring their own torch.
    case $package in
      torch==*) unzip -q "$file" 'torch/include/*' 'torch/lib/libc10.so' 'torch/lib/libtorch_cpu.so' \
                  'torch/lib/libgomp*' 'torch/version.py' 'torch-*.dist-info/*' -d "$deps/torch.part";;
      *) unzip -q "$file" -d "$deps/torch.part";;
    esac
  done < tools/libtorch.lock
  echo "$want" > "$deps/torch.part/.complete"
  mv "$deps/torch.part" "$deps/torch"
  rm -rf "$deps/download"
fi
say "ready"
