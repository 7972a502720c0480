"""Dataflow: what is looked at before anything is sent, and what its errors are called.

Each check is for something that would otherwise show late (staging waits for minutes where a bucket is missing), or
never (a secret that is stored with the job). Beam's part for Google Cloud is imported where it is used: it takes about
as long as all the rest. It must not know the graph: any job of these options is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from ge2e_transforms.errors import CommitError, ConfigError, MissingExtraError
from pipeline import storage
from pipeline.options import JobConfig, runs_on_dataflow

# Beam's options by which a credential can be given, and what takes their place. Options are part of the job: whoever
# may look at it reads them, and a template keeps them in a bucket.
_SECRETS = {
    "s3_access_key_id": "AWS_ACCESS_KEY_ID",
    "s3_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "s3_session_token": "AWS_SESSION_TOKEN",
    "azure_connection_string": "AZURE_STORAGE_CONNECTION_STRING",
}
_LOOK_S = 30


def check(job: JobConfig, beam_options: PipelineOptions) -> None:
    """Refuses what cannot run on Dataflow, or should not; does nothing for other runners.

    Raises:
        ConfigError: local paths, secrets among the options, no project, region or bucket.
        MissingExtraError: Beam's part for Google Cloud is not installed.
    """
    if not runs_on_dataflow(beam_options):
        return
    _refuse_local_paths(job)
    _refuse_secrets(beam_options)
    _require_places(beam_options.view_as(GoogleCloudOptions))
    _require_buckets(beam_options)


def template_location(beam_options: PipelineOptions) -> str:
    """Where the job is only written, to be launched by others, later and perhaps more than once; empty if it runs.

    Raises:
        ConfigError: a template for another runner, which would run the job all the same.
    """
    place: str = beam_options.view_as(GoogleCloudOptions).template_location or ""
    if place and not runs_on_dataflow(beam_options):
        raise ConfigError(f"--template_location={place}: only Dataflow has templates: add --runner=DataflowRunner")
    return place


@contextmanager
def named_errors(beam_options: PipelineOptions) -> Iterator[None]:
    """What Dataflow says of a job that it refused, or that failed, as an error of ours."""
    if not runs_on_dataflow(beam_options):
        yield
        return
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import GoogleAPICallError

    try:
        yield
    except DataflowRuntimeException as error:
        raise CommitError(f"{error}\nMend this and run the same command again; finished shards are kept") from error
    except (GoogleAPICallError, DataflowJobAlreadyExistsError) as error:
        raise ConfigError(f"Dataflow did not take the job: {error}") from error


def _refuse_local_paths(job: JobConfig) -> None:
    """Workers of Dataflow have disks of their own: what they write there is gone with them."""
    local = [path for path in (*job.manifests, job.output, job.pseudonym_key) if path and storage.is_local(path)]
    if local:
        raise ConfigError(
            f"{local[0]} is a local path, which workers of Dataflow cannot reach: expected gs:// or s3://"
        )


def _refuse_secrets(beam_options: PipelineOptions) -> None:
    given = beam_options.get_all_options()
    for option, variable in _SECRETS.items():
        if given.get(option):
            raise ConfigError(
                f"--{option} would be stored with the job, where everybody who may look at the job reads it: leave it "
                f"out, and give the workers' service account the role, or set ${variable} in the image of the workers"
            )


def _require_places(google: GoogleCloudOptions) -> None:
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    region = google.region or DataflowRunner().get_default_gcp_region()
    given = {"project": google.project, "region": region, "temp_location": google.temp_location}
    missing = [f"--{name}" for name, value in given.items() if not value]
    if missing:
        raise ConfigError(
            f"Dataflow needs {', '.join(missing)}: give it after --, as in -- --runner=DataflowRunner "
            "--project=P --region=R --temp_location=gs://BUCKET/tmp"
        )


def _require_buckets(beam_options: PipelineOptions) -> None:
    google = beam_options.view_as(GoogleCloudOptions)
    places = {name: getattr(google, name) for name in ("temp_location", "staging_location", "template_location")}
    for name, place in places.items():
        if place and (name != "template_location" or not storage.is_local(place)):
            _require_bucket(f"--{name}={place}", place, beam_options)


def _require_bucket(flag: str, place: str, beam_options: PipelineOptions) -> None:
    """Without a bucket staging tries again for minutes; for a path that is none Beam makes a bucket of its own."""
    try:
        from apache_beam.io.gcp.gcsio import create_storage_client
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import dataflow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Beam's part for Google Cloud, which Dataflow needs,", "gcp") from error
    scheme, _, path = place.partition("://")
    bucket = path.partition("/")[0]
    if scheme != "gs" or not bucket:
        raise ConfigError(f"{flag}: expected gs://BUCKET/FOLDER")
    client = create_storage_client(beam_options, not beam_options.view_as(GoogleCloudOptions).no_auth)
    try:
        found = client.lookup_bucket(bucket, timeout=_LOOK_S, retry=None)
    except (GoogleAPIError, GoogleAuthError, OSError) as error:
        raise ConfigError(
            f"{flag}: the bucket {bucket} cannot be looked at ({error}): log in (gcloud auth application-default "
            "login), or have the role Storage Admin given to you on it"
        ) from error
    if found is None:
        raise ConfigError(f"{flag}: there is no bucket {bucket}: make it (gcloud storage buckets create gs://{bucket})")
