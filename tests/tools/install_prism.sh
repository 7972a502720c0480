#!/usr/bin/env bash
# Prints the path of Apache Beam's Prism runner, of the version that goes with setup.py: $GE2E_PRISM if that is
# set, else a binary in a cache outside of the repository, which is built with Go the first time (one to two
# minutes, from Go's module proxy).
set -euo pipefail

version=v2.77.0
prism="${GE2E_PRISM:-${XDG_CACHE_HOME:-$HOME/.cache}/ge2e-features/prism-$version/prism}"

if [ ! -x "$prism" ]; then
  if [ -n "${GE2E_PRISM:-}" ]; then
    echo "install_prism.sh: GE2E_PRISM=$GE2E_PRISM is not a program; unset it to have Prism $version built" >&2
    exit 1
  fi
  if ! command -v go >/dev/null 2>&1; then
    echo "install_prism.sh: no $prism, and no Go on PATH to build it with: install Go, or set GE2E_PRISM" >&2
    exit 1
  fi
  cache=$(dirname "$prism")
  mkdir -p "$cache"
  build=$(mktemp -d "$cache/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  echo "install_prism.sh: building Prism $version" >&2
  GOBIN="$build" go install "github.com/apache/beam/sdks/v2/go/cmd/prism@$version" >&2
  mv -f "$build/prism" "$prism" # in one step: of two builds side by side one whole binary stays
fi
printf '%s\n' "$prism"
