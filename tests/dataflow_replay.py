"""Runs a job from what was staged for Dataflow, on Beam's own `boot` workers: in place of the service.

    python tests/dataflow_replay.py PIPELINE_URL SHA256 WORKERS PYTHON_ENVIRONMENT BOOT SCRATCH

A worker stands for a container: an environment of its own that holds what the image holds (PYTHON_ENVIRONMENT), in
which `boot` installs what was staged. What the staged graph says of its container image alone is changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_fn_api_pb2_grpc, beam_runner_api_pb2, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineState
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully

_CONTAINER = """#!/usr/bin/env bash
set -euo pipefail
for argument in "$@"; do
  case $argument in --id=*) id=${{argument#--id=}} ;; esac
done
container={scratch}/${{id//[^A-Za-z0-9_-]/_}}
{python}/bin/python -m venv --without-pip "$container/venv"
cd {python}
echo {python}/lib/python*/site-packages >"$(echo "$container"/venv/lib/python*/site-packages)/image.pth"
cd "$container"
unset PYTHONPATH
export RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 PATH="$container/venv/bin:$PATH"
exec {boot} --semi_persist_dir="$container" "$@" >"$container/log" 2>&1
"""


def read(url: str, sha256: str) -> bytes:
    with FileSystems.open(url, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        content: bytes = stream.read()
    assert hashlib.sha256(content).hexdigest() == sha256, f"{url} is not what the job says it is"
    return content


def on_pool(staged: bytes, address: str, scratch: Path) -> beam_runner_api_pb2.Pipeline:
    """The staged graph with its workers at `address`, and its packages brought here, as Beam's server reads files."""
    pipeline = beam_runner_api_pb2.Pipeline.FromString(staged)
    for environment in pipeline.components.environments.values():
        environment.urn = common_urns.environments.EXTERNAL.urn
        endpoint = endpoints_pb2.ApiServiceDescriptor(url=address)
        environment.payload = beam_runner_api_pb2.ExternalPayload(endpoint=endpoint).SerializeToString()
        for package in environment.dependencies:
            payload = beam_runner_api_pb2.ArtifactUrlPayload.FromString(package.type_payload)
            path = scratch / payload.url.rpartition("/")[2]
            path.write_bytes(read(payload.url, payload.sha256))
            package.type_urn = common_urns.artifact_types.FILE.urn
            package.type_payload = beam_runner_api_pb2.ArtifactFilePayload(
                path=str(path), sha256=payload.sha256
            ).SerializeToString()
    return pipeline


def main(url: str, sha256: str, workers: str, python: str, boot: str, folder: str) -> None:
    scratch = Path(folder)
    container = scratch / "container.sh"
    container.write_text(_CONTAINER.format(scratch=scratch, python=python, boot=boot))
    container.chmod(container.stat().st_mode | stat.S_IXUSR)
    pool = BeamFnExternalWorkerPoolServicer(use_process=True, container_executable=str(container))
    server = grpc.server(ThreadPoolExecutor(8))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        runner = FnApiRunner()
        runner._num_workers = int(workers)
        options = PipelineOptions(["--environment_type=EXTERNAL", f"--environment_config={address}"])
        result = runner.run_via_runner_api(on_pool(read(url, sha256), address, scratch), options)
        assert result.wait_until_finish() == PipelineState.DONE
    finally:
        for process in pool._worker_processes.values():
            kill_process_gracefully(process)
        server.stop(None)


if __name__ == "__main__":
    assert os.environ["STORAGE_EMULATOR_HOST"].startswith("http://127.0.0.1:")
    main(*sys.argv[1:])
