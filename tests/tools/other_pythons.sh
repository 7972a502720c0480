#!/usr/bin/env bash
# Installs the project as a user does, `.[beam,report]`, under each other Python that setup.py declares, and runs the tests of
# a whole job, of the commands and of batches there. Their dependencies are resolved anew: older Pythons get other
# versions of NumPy than the rest of the suite has. A Python that is not here is named, and fails this where CI=true.
# Pythons are looked for on PATH and among those of pyenv; environments lie in the cache, and are kept up to date.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/../.."

uv=("${1:-python3}" -m uv)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/ge2e-features"
missing=0

find_python() {
  local found
  for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if [ -x "$found" ] && "$found" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
      printf '%s\n' "$found"
      return
    fi
  done
  return 1
}

for version in 3.10 3.12; do
  if ! python=$(find_python "$version"); then
    printf 'Python %s is not here: NOT TESTED\n' "$version" >&2
    missing=1
    continue
  fi
  printf '\n==> Python %s\n' "$("$python" -c 'import platform; print(platform.python_version())')"
  environment="$cache/python-$version"
  "${uv[@]}" venv --quiet --allow-existing --python "$python" "$environment"
  "${uv[@]}" pip install --quiet --python "$environment" --editable '.[beam,report]' pytest pytest-xdist hypothesis
  "$environment/bin/python" -m pytest -q -p no:cacheprovider -n 2 --dist loadfile \
    tests/test_main.py tests/test_commands.py tests/test_config.py tests/test_stream.py tests/test_verify.py
done
if [ "$missing" = 1 ] && [ "${CI-}" = true ]; then
  exit 1
fi
