#!/usr/bin/env bash
# Prints the path of a Python environment that holds what deploy/dataflow/requirements.lock pins, as the image of the
# workers does, but not this project: what a test installs there by itself is then what it tests. It lies in a cache
# outside of the repository and is made the first time (some minutes, from the package index).
#   usage: install_worker.sh PYTHON
set -euo pipefail

python=${1:?usage: install_worker.sh PYTHON}
lock=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)/deploy/dataflow/requirements.lock
key=$({ cat "$lock" && "$python" -VV; } | cksum | cut -d ' ' -f 1)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/ge2e-features"
worker="$cache/worker-$key"

if [ ! -d "$worker" ]; then
  mkdir -p "$cache"
  build=$(mktemp -d "$cache/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  echo "install_worker.sh: making $worker" >&2
  "$python" -m venv "$build/worker" >&2
  "$build/worker/bin/python" -m pip install --quiet --disable-pip-version-check -r "$lock" >&2
  # In one step: of two builds side by side one whole environment stays. Its `python` bears the move, and is all that
  # is used of its programs.
  mv -T "$build/worker" "$worker" || [ -d "$worker" ]
fi
printf '%s\n' "$worker"
