#!/usr/bin/env bash
# Prints the path of a program of Apache Beam, of the version that goes with setup.py: `boot`, which starts a Python
# worker in every SDK container, or `prism`, a runner. It is $GE2E_BOOT or $GE2E_PRISM if that is set, else a binary in a
# cache outside of the repository, which is built with Go the first time (one to two minutes, from Go's module proxy).
#   usage: install_beam.sh boot|prism
set -euo pipefail

version=v2.77.0
name=${1-}
case "$name" in
  boot) variable=GE2E_BOOT package=python/container built=container ;;
  prism) variable=GE2E_PRISM package=go/cmd/prism built=prism ;;
  *)
    echo "usage: install_beam.sh boot|prism" >&2
    exit 2
    ;;
esac
given=${!variable:-}
program="${given:-${XDG_CACHE_HOME:-$HOME/.cache}/ge2e-features/$name-$version/$name}"

if [ ! -x "$program" ]; then
  if [ -n "$given" ]; then
    echo "install_beam.sh: $variable=$given is not a program; unset it to have $name $version built" >&2
    exit 1
  fi
  if ! command -v go >/dev/null 2>&1; then
    echo "install_beam.sh: no $program, and no Go on PATH to build it with: install Go, or set $variable" >&2
    exit 1
  fi
  cache=$(dirname "$program")
  mkdir -p "$cache"
  build=$(mktemp -d "$cache/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  echo "install_beam.sh: building $name $version" >&2
  GOBIN="$build" go install "github.com/apache/beam/sdks/v2/$package@$version" >&2
  mv -f "$build/$built" "$program" # in one step: of two builds side by side one whole binary stays
fi
printf '%s\n' "$program"
