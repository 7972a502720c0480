"""Replacing one small object of a store only while it is what was read: the one wish that Arrow's clients cannot carry.

By the providers' own clients, boto3 and google-cloud-storage, which look for credentials where Arrow's do (environment,
profile, instance). They are loaded here alone, and only when a dataset is published. It must not know
what the content means.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ge2e_transforms import stores
from ge2e_transforms.errors import MissingExtraError
from ge2e_transforms.stores import StoreError

_TIMEOUT_S = 20
_PAUSES_S = (0.5, 2.0, 8.0, 20.0)
_GONE, _CHANGED, _UNKNOWN = 404, 412, 501
# Of the 4xx: too slow, another conditional write of this object is under way, it has been changed, too many.
_MAY_PASS = (408, 409, _CHANGED, 429)


class Standing(NamedTuple):
    """What stands under a name: content and the provider's mark of it (ETag, generation); both None for nothing."""

    content: bytes | None
    mark: Any


class _Object(Protocol):
    def get(self) -> Standing:
        """What stands there."""

    def put(self, content: bytes, mark: Any) -> None:
        """Replaces what has this mark (None: creates it)."""

    def status(self, error: Exception) -> int | None:
        """The HTTP status of an error that the two above raised; 0 for trouble of the network, None for a bug."""


class NotConditionalError(Exception):
    """The store does not know conditional writes."""


def replace(url: str, content: bytes, is_expected: Callable[[bytes | None], bool]) -> bool:
    """Writes an object, if what stands there is as expected at the very moment of the write.

    An answer that is lost may be that of a write which arrived: what stands is compared with `content` before each try.

    Args:
        url: of the object, `s3://` or `gs://`.
        content: all of it.
        is_expected: asked of what stands, None for nothing.

    Returns:
        Whether `content` stands there now.

    Raises:
        MissingExtraError: the provider's client is not installed.
        NotConditionalError: the store has no such writes.
        StoreError: it does not answer, or refuses.
    """
    found = _clients()[url.partition("://")[0]](url)
    pauses = iter(_PAUSES_S)
    while True:
        try:
            standing = found.get()
            if standing.content == content:
                return True
            if not is_expected(standing.content):
                return False
            found.put(content, standing.mark)
            return True
        except Exception as error:
            status = found.status(error)
            if status is None:
                raise
            if status == _UNKNOWN:
                raise NotConditionalError("the store knows no conditional writes") from error
            final, pause = 300 <= status < 500 and status not in _MAY_PASS, next(pauses, None)
            if final or pause is None:
                raise StoreError(stores.told(url, "written", str(error)), final=final) from None
            time.sleep(0 if status == _CHANGED else pause * random.uniform(0.5, 1))


def _clients() -> dict[str, Callable[[str], _Object]]:
    return {"s3": _S3Object, "gs": _GcsObject}


def _parts(url: str) -> tuple[str, str]:
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


class _S3Object:
    def __init__(self, url: str) -> None:
        try:
            import boto3
            from botocore import exceptions
            from botocore.config import Config
        except ImportError as error:
            raise MissingExtraError("boto3", "s3") from error
        bucket, key = _parts(url)
        endpoint = stores.endpoint("s3")
        self._errors, self._place = exceptions, {"Bucket": bucket, "Key": key}
        self._client = boto3.client(
            "s3",
            endpoint_url="://".join(endpoint) or None,
            region_name=stores.region(bucket),
            config=Config(
                connect_timeout=_TIMEOUT_S,
                read_timeout=_TIMEOUT_S,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path" if endpoint else "auto"},
                # Stores that are not Amazon's know no others.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def get(self) -> Standing:
        try:
            answer = self._client.get_object(**self._place)
            return Standing(answer["Body"].read(), answer["ETag"])
        except self._errors.ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return Standing(None, None)

    def put(self, content: bytes, mark: Any) -> None:
        condition = {"IfNoneMatch": "*"} if mark is None else {"IfMatch": mark}
        self._client.put_object(**self._place, Body=content, **condition)

    def status(self, error: Exception) -> int | None:
        if isinstance(error, self._errors.ClientError):
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            gone = status == _GONE and error.response["Error"]["Code"] == "NoSuchKey"  # removed since it was read
            return _CHANGED if gone else status
        if isinstance(error, self._errors.NoCredentialsError | self._errors.PartialCredentialsError):
            return 401
        return 0 if isinstance(error, self._errors.BotoCoreError) else None


class _GcsObject:
    def __init__(self, url: str) -> None:
        try:
            from google.api_core import exceptions
            from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
            from google.cloud.storage import Client
            from requests import RequestException
        except ImportError as error:
            raise MissingExtraError("google-cloud-storage", "gcp") from error
        bucket, key = _parts(url)
        self._errors, self._trouble = exceptions, (RequestException, GoogleAuthError, OSError)
        endpoint = stores.endpoint("gs")
        options = {"client_options": {"api_endpoint": "://".join(endpoint)}} if endpoint else {}
        try:
            client = Client(project=None, **options)  # without credentials where an emulator is named
        except DefaultCredentialsError as error:
            raise StoreError(stores.told(url, "written", str(error)), final=True) from error
        self._blob = client.bucket(bucket).blob(key)

    def get(self) -> Standing:
        try:
            self._blob.reload(timeout=_TIMEOUT_S, retry=None)
            mark = self._blob.generation
            content = self._blob.download_as_bytes(if_generation_match=mark, timeout=_TIMEOUT_S, retry=None)
            return Standing(content, mark)
        except self._errors.NotFound:
            return Standing(None, None)

    def put(self, content: bytes, mark: Any) -> None:
        self._blob.upload_from_string(content, if_generation_match=mark or 0, timeout=_TIMEOUT_S, retry=None)

    def status(self, error: Exception) -> int | None:
        if isinstance(error, self._errors.GoogleAPICallError):
            return int(error.code or 0)
        return 0 if isinstance(error, self._trouble) else None
