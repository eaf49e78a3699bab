#!/usr/bin/env bash
# Installs what the build needs and only what is missing; says what it does; may be repeated or interrupted.
#   Debian packages   tools/debian-packages, by apt (as root, or through sudo when that asks no password); with the argument
#                     `tests` also tools/debian-packages-tests and -browser, as far as they can be had
#   LibTorch          tools/libtorch.lock, from PyPI into .deps/torch of this checkout, each wheel checked by SHA-256
#   nvcc              tools/cuda.lock, likewise into .deps/cuda; where it cannot be had, or with ASSAY_CUDA=off, the build
#                     does without the CUDA kernels
#   cuBLAS, NCCL      tools/cublas.lock, tools/nccl.lock: headers out of their wheels, into .deps/cublas and .deps/nccl; without
#                     them no products on GPUs, and no ranks
#   uPlot             tools/web.lock, from npm into .deps/web, likewise checked
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
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# What of a list is missing, by apt. No `set -e` inside a function whose result is asked for, hence the returns.
packages() {  # list
  local package check missing=() as_root
  while read -r package _ check; do
    case $package in ''|\#*) continue;; esac
    present "$check" || missing+=("$package")
  done < "$1"
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ]; then as_root=(env)
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo env)
  else
    say "these Debian packages are missing; type this, then run setup again:" >&2
    printf '  sudo apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
    return 1
  fi
  say "installing Debian packages: ${missing[*]}"
  # An apt that another program holds the lock of is waited for, not failed on.
  local apt=("${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 && return
  tail -n 20 "$log" >&2
  return 1
}
packages tools/debian-packages || exit 1
if [ "${1:-}" = tests ]; then
  for list in tools/debian-packages-tests tools/debian-packages-browser; do
    packages $list || say "tests that need those will be reported as skipped" >&2
  done
fi

# ---- wheels from PyPI --------------------------------------------------------------------------------------------
deps=$PWD/.deps

# Where PyPI (or the mirror that pip is configured for) keeps the one file of a package that has this hash.
wheel_url() {  # package==version sha256
  local report
  report=$(python3 -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --no-deps \
    --target "$deps/none" --only-binary=:all: --python-version 311 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_18_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux_2_12_x86_64 --report - --require-hashes --requirement <(echo "$1 --hash=sha256:$2")) || return
  python3 -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["download_info"]["url"])' <<<"$report"
}

has_sum() { [ -e "$1" ] && echo "$2  $1" | sha256sum --check --status; }  # file sha256

fetch() {  # package==version sha256 file lock
  has_sum "$3" "$2" && return
  if ! has_sum "$3.part" "$2"; then
    say "downloading $1"
    local url
    url=$(wheel_url "$1" "$2") || return
    # --continue-at resumes what an interrupted download left behind; pip by itself would begin again.
    curl --fail --silent --show-error --location --retry 5 --continue-at - --output "$3.part" "$url" || return
    if ! has_sum "$3.part" "$2"; then
      rm -f "$3.part"
      say "the wheel of $1 does not have the SHA-256 in $4 and was deleted; run setup again" >&2
      return 1
    fi
  fi
  mv "$3.part" "$3"
}

complete() { [ "$(cat "$deps/$2/.complete" 2>/dev/null)" = "$(sha256sum "$1" | cut -d' ' -f1)" ]; }  # lock folder

# Everything in a lock file into .deps/FOLDER, unless it is there; UNPACK WHEEL PACKAGE TARGET takes what is needed.
install() {  # lock folder unpack
  complete "$1" "$2" && return
  local part=$deps/$2.part package sha i packages=() files=()
  mkdir -p "$deps/download" || return
  while read -r package sha; do
    case $package in ''|\#*) continue;; esac
    fetch "$package" "$sha" "$deps/download/$package.whl" "$1" || return
    packages+=("$package") files+=("$deps/download/$package.whl")
  done < "$1"
  rm -rf "$part" && mkdir "$part" || return
  for i in "${!files[@]}"; do
    say "unpacking ${packages[i]}"
    "$3" "${files[i]}" "${packages[i]}" "$part" || return
  done
  sha256sum "$1" | cut -d' ' -f1 > "$part/.complete" || return
  rm -rf "${deps:?}/$2" && mv "$part" "$deps/$2" && rm -f "${files[@]}"
}

# ---- LibTorch --------------------------------------------------------------------------------------------------
# Headers and CPU libraries. The CUDA half of the wheel serves GPU machines only, which bring their own torch.
unpack_torch() {
  case $2 in
    torch==*) unzip -q "$1" 'torch/include/*' 'torch/lib/libc10.so' 'torch/lib/libtorch_cpu.so' \
                'torch/lib/libgomp*' 'torch/version.py' 'torch-*.dist-info/*' -d "$3";;
    *) unzip -q "$1" -d "$3";;
  esac
}
install tools/libtorch.lock torch unpack_torch

# ---- the CUDA compiler -----------------------------------------------------------------------------------------
# With its headers and the static runtime library; needs no GPU. nvcc looks for libraries in lib64.
unpack_cuda() {
  case $2 in
    nvidia-nvvm==*) unzip -q "$1" -x '*/libnvvm*' -d "$3";;  # only for programs that compile kernels while they run
    *) unzip -q "$1" -d "$3";;
  esac
  mkdir -p "$3/nvidia/cu13/lib" && ln -sfn lib "$3/nvidia/cu13/lib64"
}
if [ "${ASSAY_CUDA:-}" = off ]; then
  say "without the CUDA kernels, as ASSAY_CUDA=off asks"
elif ! install tools/cuda.lock cuda unpack_cuda; then
  say "nvcc cannot be had here (the reason stands above): the build goes on without the CUDA kernels" >&2
fi

# ---- headers of cuBLAS and NCCL ----------------------------------------------------------------------------------
# The files that a lock file names, out of its one wheel, into .deps/FOLDER.
install_headers() {  # lock folder
  complete "$1" "$2" && return
  local part=$deps/$2.part url name sha lines=() files=()
  while read -r name sha; do
    case $name in
      ''|\#*) continue;;
      *==*) ;;
      *) files+=("$name");;
    esac
    lines+=("$name $sha")
  done < "$1"
  say "taking headers of ${lines[0]%% *}"
  url=$(wheel_url ${lines[0]}) || return
  rm -rf "$part" && mkdir -p "$part" || return
  python3 tools/wheel_files.py "$url" "$part" "${files[@]}" || return
  for name in "${lines[@]:1}"; do
    has_sum "$part/${name% *}" "${name#* }" && continue
    say "${name% *} of ${lines[0]%% *} does not have the SHA-256 in $1" >&2
    return 1
  done
  sha256sum "$1" | cut -d' ' -f1 > "$part/.complete" || return
  rm -rf "${deps:?}/$2" && mv "$part" "$deps/$2"
}
if [ "${ASSAY_CUDA:-}" != off ] && ! install_headers tools/cublas.lock cublas; then
  say "cuBLAS's headers cannot be had here (the reason stands above): the build goes on without products on GPUs" >&2
fi
if [ "${ASSAY_CUDA:-}" != off ] && ! install_headers tools/nccl.lock nccl; then
  say "NCCL's header cannot be had here (the reason stands above): the build goes on without ranks on GPUs" >&2
fi

# ---- what the web page is made with ----------------------------------------------------------------------------
# npm brings the tarballs (from its registry or the one it is configured for); no package of them runs anything here.
install_web() {
  [ "$(cat "$deps/web/.complete" 2>/dev/null)" = "$(sha256sum tools/web.lock | cut -d' ' -f1)" ] && return
  local part=$deps/web.part package sha name
  rm -rf "$part" && mkdir -p "$part" || return
  while read -r package sha; do
    case $package in ''|\#*) continue;; esac
    say "downloading $package"
    name=${package%@*}
    npm pack --silent --pack-destination "$part" "$package" >/dev/null || return
    if ! echo "$sha  $part/$name-${package##*@}.tgz" | sha512sum --check --status; then
      say "the tarball of $package does not have the SHA-512 in tools/web.lock; run setup again" >&2
      return 1
    fi
    mkdir "$part/$name" && tar -xzf "$part/$name-${package##*@}.tgz" -C "$part/$name" --strip-components=1 || return
    rm "$part/$name-${package##*@}.tgz"
  done < tools/web.lock
  sha256sum tools/web.lock | cut -d' ' -f1 > "$part/.complete" || return
  rm -rf "$deps/web" && mv "$part" "$deps/web"
}
install_web
rmdir "$deps/download" 2>/dev/null || true
say "ready"
