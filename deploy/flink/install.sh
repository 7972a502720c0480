#!/usr/bin/env bash
# Prints the folder of a Flink 1.19 with Beam's job server: flink/ (Flink's jars, from PyPI) and gradle/wrapper/ (the
# job server's, from Maven). $GE2E_FLINK if that is set, else a folder in a cache outside of the repository, which is filled the first
# time (400 MB to download, some minutes).
#   usage: install.sh [PYTHON]      a Python with pip; default python3
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${1:-python3}
flink_version=1.19.3
key=$(cksum <"$here/pom.xml" | cut -d ' ' -f 1)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/ge2e-features"
parts="${GE2E_FLINK:-$cache/flink-$flink_version-$key}"

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

command -v java >/dev/null 2>&1 || fail "no Java on PATH: Flink needs Java 11 or 17"
if [ ! -d "$parts" ]; then
  [ -z "${GE2E_FLINK:-}" ] || fail "GE2E_FLINK=$GE2E_FLINK is no folder; unset it to have Flink $flink_version downloaded"
  command -v mvn >/dev/null 2>&1 || fail "no $parts, and no Maven on PATH (mvn) to download Beam's job server with"
  mkdir -p "$cache"
  build=$(mktemp -d "$cache/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  echo "install.sh: downloading Flink $flink_version and Beam's job server" >&2
  # The name gradle/wrapper: see cluster.py, _NOT_STAGED.
  mvn --quiet --batch-mode --file "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$build/parts/gradle/wrapper" >&2
  # Flink itself: its jars are those of the release; the scripts that start it are not there.
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
    --dest "$build" "apache-flink-libraries==$flink_version" >&2
  tar -xzf "$build/apache-flink-libraries-$flink_version.tar.gz" -C "$build"
  mv "$build/apache-flink-libraries-$flink_version/deps/lib" "$build/parts/flink"
  # In one step: a download that was killed never looks whole, and of two side by side one stays (a folder that holds
  # something is not replaced).
  "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$build/parts" "$parts" 2>/dev/null || [ -d "$parts" ] ||
    fail "cannot make $parts"
fi
printf '%s\n' "$parts"
