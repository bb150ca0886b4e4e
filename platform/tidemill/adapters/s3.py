"""The store on S3-compatible storage: each name is written once, by a conditional put."""

import configparser
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store as Client

from tidemill.adapters.files import describe, validate_name
from tidemill.core.errors import SpecInvalid, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from obstore.store import S3Config

_CONDITIONAL_PUT_PROBE = "conditional-put-probe"
_ERROR_BODY = re.compile(r"<Code>(\w+)</Code>\s*<Message>(.*?)</Message>", re.DOTALL)
_NO_SPACE_CODES = {"InsufficientStorage", "QuotaExceeded"}
_CREDENTIALS_REMEDY = (
    "Pass keys that may list, read, write and delete there, with AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or in a file named by TIDEMILL_S3__CREDENTIALS."
)
_REGION_REMEDY = "Change TIDEMILL_S3__REGION, or AWS_REGION."
_SPACE_REMEDY = "Free some space there, then run the same command again; nothing is half written."
_REMEDIES = {
    **dict.fromkeys(_NO_SPACE_CODES, _SPACE_REMEDY),
    "NoSuchBucket": "Create the bucket, or change TIDEMILL_STORE.",
    "AuthorizationHeaderMalformed": _REGION_REMEDY,
    "PermanentRedirect": _REGION_REMEDY,
    "AccessDenied": _CREDENTIALS_REMEDY,
    "ExpiredToken": _CREDENTIALS_REMEDY,
    "InvalidAccessKeyId": _CREDENTIALS_REMEDY,
    "SignatureDoesNotMatch": _CREDENTIALS_REMEDY,
    "XAdminUserNotFound": _CREDENTIALS_REMEDY,
}


class S3Store:
    """A `Store` in a bucket, below `prefix`.

    Each name is one object, written by one request, so nothing is ever left unfinished. Every
    method raises `StoreUnavailable` if the storage denies access or is unavailable for `timeout`
    seconds, and `StoreFull` if it has no space left. After an interrupted put, the object is read
    once more to find out whether it was written.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        timeout: float,
        endpoint: str | None = None,
        region: str | None = None,
        credentials: Path | None = None,
    ) -> None:
        """A None is read from AWS's own environment variables. Raises `SpecInvalid`."""
        timeout_delta = timedelta(seconds=timeout)
        config = _read_credentials(credentials)
        config["disable_bulk_delete"] = True  # not every service supports it
        if endpoint is not None:
            config["endpoint"] = endpoint
        if region is not None:
            config["region"] = region
        self._url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._timeout = timeout
        self._client = Client(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={
                "timeout": timeout_delta,
                "connect_timeout": min(timeout_delta, timedelta(seconds=5)),
                "allow_http": True,  # for an endpoint with http://
            },
            retry_config={
                "retry_timeout": timeout_delta,
                "max_retries": 1_000,  # limited by the time only
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=2),
                    "base": 2,
                },
            },
        )

    def get(self, name: str) -> bytes | None:
        with self._translate_errors(f"read {validate_name(name)}"):
            return self._get(name)

    def put(self, name: str, data: bytes) -> bool:
        with self._translate_errors(f"write {describe(validate_name(name), data)}"):
            try:
                self._client.put(name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            except BaseError:  # the outcome of the request is unknown
                existing = self._get(name)
                if existing is None:
                    raise
                return existing == data
            return True

    def replace(self, name: str, data: bytes) -> None:
        with self._translate_errors(f"write {describe(validate_name(name), data)}"):
            self._client.put(name, data, use_multipart=False)

    def names(self, prefix: str) -> Iterator[str]:
        with self._translate_errors(f"list {prefix or 'its objects'}"):
            listed = [item["path"] for chunk in self._client.list(prefix) for item in chunk]
        return iter(sorted(name for name in listed if name != _CONDITIONAL_PUT_PROBE))

    def delete(self, name: str) -> None:
        with self._translate_errors(f"delete {validate_name(name)}"):
            self._client.delete(name)

    def recover(self, model: str) -> None:
        """Check that the storage supports conditional puts; there is never anything to clean up.

        Without them, the last writer would silently win.
        """
        if self.put(_CONDITIONAL_PUT_PROBE, b"") and self.put(_CONDITIONAL_PUT_PROBE, b""):
            raise StoreUnavailable(
                f"The storage of {self._url} overwrites an existing object: it ignores "
                "`If-None-Match: *`.",
                "Use storage that supports conditional puts, or a folder.",
            )

    def _get(self, name: str) -> bytes | None:
        try:
            return self._client.get(name).bytes().to_bytes()
        except FileNotFoundError as error:
            # A missing bucket and unknown keys are also answered with 404.
            if "<Code>NoSuchKey</Code>" in str(error):
                return None
            raise

    @contextmanager
    def _translate_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            code, reason, remedy = self._diagnose(str(error))
            error_type = StoreFull if code in _NO_SPACE_CODES else StoreUnavailable
            raise error_type(
                f"The store {self._url} could not {action}: {reason}.", remedy
            ) from error

    def _diagnose(self, text: str) -> tuple[str, str, str]:
        """The storage's error code (empty if it did not answer), the reason, and the remedy."""
        if match := _ERROR_BODY.search(text):
            code, message = match[1], unescape(match[2]).rstrip(".")
            default_remedy = f"Check the storage's own log for {code}."
            return code, f"{message} ({code})", _REMEDIES.get(code, default_remedy)
        if "/latest/api/token" in text:  # the metadata service, which clients try last
            return "", "no keys were found, and this machine has no role", _CREDENTIALS_REMEDY
        return (
            "",
            f"no valid answer within {self._timeout:g} s: "
            + text.split("\n")[0].partition(" - ")[2],
            "Check that the storage is running and that TIDEMILL_S3__ENDPOINT is its address "
            "(TIDEMILL_S3__TIMEOUT limits the wait), then run the same command again.",
        )


def _read_credentials(file: Path | None) -> "S3Config":
    """The keys in a credentials file of AWS's format, under the client's names."""
    if file is None:
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.expanduser().read_text())
        section = parser["default"]
        keys: S3Config = {
            "access_key_id": section["aws_access_key_id"],
            "secret_access_key": section["aws_secret_access_key"],
        }
        if "aws_session_token" in section:
            keys["session_token"] = section["aws_session_token"]
        return keys
    except (OSError, ValueError, KeyError, configparser.Error) as error:
        raise SpecInvalid(
            f"The credentials file {file} is not valid: {type(error).__name__}.",
            "TIDEMILL_S3__CREDENTIALS must name a file with a section [default] that contains "
            "aws_access_key_id and aws_secret_access_key.",
        ) from None  # its text may contain a key
