#!/usr/bin/env bash
# Everything on this machine, in a virtual environment of its own (made and kept up to date here).
# Linux and macOS; works with the bash 3.2 of macOS.
set -euo pipefail

usage() {
  cat <<'END'
usage:
  ./run_local.sh                            demo: make a small corpus, compute its features, verify, show one batch
  ./run_local.sh MANIFEST OUTPUT [flags]    the same with your own speech; flags go to `ge2e run`
  ./run_local.sh check                      format, lint (docstrings too) and types, without changing anything
  ./run_local.sh test [pytest arguments]    run the test suite
  ./run_local.sh docs                       build the pages of docs/ into build/docs
  ./run_local.sh install [test|docs]        only make the environment (that of the test suite, of the pages)

The environment is .venv beside this script; GE2E_VENV names another folder.
END
}

repo=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
venv="${GE2E_VENV:-$repo/.venv}"
case "$venv" in
  /*) ;;
  *) venv="$PWD/$venv" ;;
esac

say() { printf '\n==> %s\n' "$*"; }

fail() {
  printf 'run_local.sh: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local python
  for python in python3 python3.12 python3.11 python3.10; do
    if "$python" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))" >/dev/null 2>&1; then
      printf '%s\n' "$python"
      return
    fi
  done
  fail "no Python 3.10, 3.11 or 3.12 on PATH (found: $(python3 --version 2>/dev/null || echo none)): install one of them"
}

make_venv() {
  if "$venv/bin/python" -c '' >/dev/null 2>&1; then
    return
  fi
  if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
    fail "$venv is there and is no virtual environment: move it away, or set GE2E_VENV to another folder"
  fi
  local python
  python=$(find_python)
  say "making $venv with $("$python" --version)"
  if ! "$python" -m venv --clear "$venv"; then
    rm -rf -- "$venv" # else a half-made one would be taken for a whole one
    fail "$python cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"
  fi
}

# install demo|test|docs: nothing is done while the project's description is what it was the last time.
install() {
  local extras=beam,tf,demo state
  case "$1" in
    test) extras=beam,tf,dev ;; # holds demo too
    docs) extras=docs ;;
  esac
  make_venv
  state="$(cat "$repo/setup.py" "$repo/pyproject.toml" | cksum) $repo"
  if [ "$(cat "$venv/.installed-$1" 2>/dev/null)" = "$state" ]; then
    return
  fi
  say "installing the project with [$extras] into $venv (some minutes the first time; less where uv is on PATH)"
  if command -v uv >/dev/null 2>&1; then
    (cd "$repo" && uv pip install --quiet --compile-bytecode --python "$venv/bin/python" --editable ".[$extras]")
  else
    (cd "$repo" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]")
  fi
  printf '%s\n' "$state" >"$venv/.installed-$1"
  if [ "$1" = test ]; then
    printf '%s\n' "$state" >"$venv/.installed-demo"
  fi
}

# features MANIFEST OUTPUT [flags]
features() {
  local manifest=$1 output=$2 picture
  shift 2
  say "ge2e run: $manifest -> $output"
  "$venv/bin/ge2e" run --manifest "$manifest" --output "$output" "$@"
  say "ge2e verify $output"
  "$venv/bin/ge2e" verify "$output"
  picture="${output%/}-batch.png"
  case "$output" in
    *://*) picture="${picture##*/}" ;; # of a dataset in a bucket: into the current folder
  esac
  say "one batch of $output"
  "$venv/bin/python" "$repo/examples/show_batch.py" "$output" --picture "$picture"
}

check() {
  cd "$repo"
  say "format"
  "$venv/bin/ruff" format --check .
  say "lint"
  "$venv/bin/ruff" check .
  say "types"
  "$venv/bin/mypy"
}

# Any warning is an error; nothing is fetched.
docs() {
  cd "$repo"
  say "pages: build/docs/index.html"
  "$venv/bin/python" -m sphinx -W --keep-going -n -q -b html docs build/docs
}

demo() {
  cd "$repo"
  say "demo corpus, spoken by espeak-ng"
  "$venv/bin/python" examples/demo_corpus.py demo/corpus
  rm -rf demo/features demo/features-batch.png # so that the demo computes it all again
  features demo/corpus/manifest.csv demo/features --test_speakers 8
}

case "${1-demo}" in
  -h | --help) usage ;;
  demo)
    install demo
    demo
    ;;
  check)
    install test
    check
    ;;
  test)
    shift
    install test
    cd "$repo"
    # One process more than cores, as tests of whole jobs mostly wait for programs; four hold some gigabytes.
    processes=$("$venv/bin/python" -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
    "$venv/bin/python" -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder "$@"
    ;;
  docs)
    install docs
    docs
    ;;
  install)
    case "${2-demo}" in
      demo | test | docs) install "${2-demo}" ;;
      *) fail "install $2: expected install, install test or install docs" ;;
    esac
    ;;
  *)
    if [ $# -lt 2 ]; then
      usage >&2
      exit 2
    fi
    install demo
    features "$@"
    ;;
esac
