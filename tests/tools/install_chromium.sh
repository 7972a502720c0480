#!/usr/bin/env bash
# Prints the path of Chromium: $GE2E_CHROMIUM if that is set, else the one on PATH; where it is not there, root has it
# installed by apt-get (Debian; some hundred MB).
set -euo pipefail

find_chromium() {
  command -v chromium || command -v chromium-browser || command -v google-chrome
}

if [ -n "${GE2E_CHROMIUM:-}" ]; then
  if [ ! -x "$GE2E_CHROMIUM" ]; then
    echo "install_chromium.sh: GE2E_CHROMIUM=$GE2E_CHROMIUM is not a program; unset it to have Chromium looked up" >&2
    exit 1
  fi
  printf '%s\n' "$GE2E_CHROMIUM"
  exit
fi
if ! find_chromium >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "install_chromium.sh: no chromium on PATH: install it (Debian: apt-get install chromium), or set GE2E_CHROMIUM" >&2
    exit 1
  fi
  echo "install_chromium.sh: installing the package chromium" >&2
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >&2
fi
find_chromium
