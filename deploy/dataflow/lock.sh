#!/usr/bin/env bash
# Writes requirements.lock: everything that the image holds beside Python and this project, pinned. Needs uv
# (pip install uv). Commit the result; run it again when setup.py changes, or to take newer versions (--upgrade).
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/../.."
# manylinux_2_28 is what the wheels of pyarrow and its like are built for; Debian 12 is newer.
uv pip compile setup.py --extra gcp --extra s3 --extra av --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --no-emit-index-url --no-emit-find-links --custom-compile-command deploy/dataflow/lock.sh \
  --output-file deploy/dataflow/requirements.lock --quiet "$@"
