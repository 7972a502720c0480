#!/usr/bin/env bash
# Prints the path of Apache Beam's boot program, which starts a Python worker in every SDK container, of the version
# that goes with setup.py: $GE2E_BOOT if that is set, else a binary in a cache outside of the repository, which is built
# with Go the first time (one to two minutes, from Go's module proxy).
set -euo pipefail

version=v2.77.0
boot="${GE2E_BOOT:-${XDG_CACHE_HOME:-$HOME/.cache}/ge2e-features/boot-$version/boot}"

if [ ! -x "$boot" ]; then
  if [ -n "${GE2E_BOOT:-}" ]; then
    echo "install_boot.sh: GE2E_BOOT=$GE2E_BOOT is not a program; unset it to have boot $version built" >&2
    exit 1
  fi
  if ! command -v go >/dev/null 2>&1; then
    echo "install_boot.sh: no $boot, and no Go on PATH to build it with: install Go, or set GE2E_BOOT" >&2
    exit 1
  fi
  cache=$(dirname "$boot")
  mkdir -p "$cache"
  build=$(mktemp -d "$cache/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  echo "install_boot.sh: building boot $version" >&2
  GOBIN="$build" go install "github.com/apache/beam/sdks/v2/python/container@$version" >&2
  mv -f "$build/container" "$boot" # in one step: of two builds side by side one whole binary stays
fi
printf '%s\n' "$boot"
