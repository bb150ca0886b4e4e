"""Images built without an engine: what a Dockerfile adds to its base, as a folder.

Its `RUN uv sync …` run word for word, where nothing is but what was copied. Debian's packages, uv
and Python are this machine's; to be quick, files are links into uv's cache, and what this
environment has compiled of the same files is not compiled again.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
_FLAG = re.compile(r"--(mount|from)=(\S+)\s+")
_BROUGHT = re.compile(r"apt-get |pip install ")
_OVER = """
mount -t overlay overlay -o lowerdir=/,upperdir={folder},workdir={scratch} {scratch}/root
exec chroot {scratch}/root sh -ec {command}
"""
_WITHIN = """
mount --bind {layer}/opt /opt
mount --bind {folder} /mnt
mount -o remount,bind,ro /opt
mount -o remount,bind,ro /
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ln -s /mnt/secrets /run/secrets
mount -t proc proc /proc
exec {words}
"""


@dataclass
class _Stage:
    """A stage under way: the folder that is `/` to its steps, and what they are told."""

    folder: Path
    workdir: str = "/"
    told: dict[str, str] = field(default_factory=dict)

    def at(self, path: str) -> Path:
        """This path of the image on this machine."""
        return self.folder / str(PurePosixPath(self.workdir, path)).lstrip("/")


def dockerfile(image: str) -> Path:
    return ROOT / "deploy" / "docker" / f"{image}.Dockerfile"


def uv() -> str:
    """As the Makefile finds it."""
    return shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


def build(image: str, folder: Path) -> Path:
    """What the image adds to its base, in a folder below `folder`; skips where this is not root."""
    if os.geteuid() != 0:
        pytest.skip("not run: who is not root cannot lay one folder over another")
    stages: dict[str, _Stage] = {}
    stage = _Stage(folder)
    for step in DockerfileParser(str(dockerfile(image)), env_replace=False).structure:
        value = step["value"]
        match step["instruction"]:
            case "FROM":
                name = value.partition(" AS ")[2] or "last"
                stage = stages[name] = _Stage(folder / name)
                stage.folder.mkdir(parents=True)
            case "ENV":
                stage.told |= dict(each.split("=", 1) for each in shlex.split(value))
            case "WORKDIR":
                stage.workdir = value
            case "COPY":
                _copy(value, stage, stages)
            case "RUN":
                _run(_FLAG.sub("", value), stage)
    return stage.folder


def within(
    image: str, layer: Path, folder: Path, environment: Mapping[str, str], *words: str
) -> tuple[str, ...]:
    """A command that runs these words by the image's entry point in what `build` made of it.

    There `folder` is `/mnt`, its `secrets` are the secrets, and nothing else but `/tmp` can be
    written, as by a read-only container.
    """
    parser = DockerfileParser(str(dockerfile(image)), parent_env={"PATH": os.defpath})
    said = {step["instruction"]: step["value"] for step in parser.structure}
    told = [f"{name}={value}" for name, value in {**parser.envs, **environment}.items()]
    run = ["/usr/bin/env", "-i", "-C", said["WORKDIR"], *told, *json.loads(said["ENTRYPOINT"])]
    script = _WITHIN.format(layer=layer, folder=folder, words=shlex.join([*run, *words]))
    alone = ("--mount", "--pid", "--fork", "--kill-child")
    return ("/usr/bin/unshare", *alone, "sh", "-ec", script)


def _copy(value: str, stage: _Stage, stages: dict[str, _Stage]) -> None:
    flags = dict(_FLAG.findall(value))
    *sources, target = _FLAG.sub("", value).split()
    if "from" in flags:
        stage.at(target).parent.mkdir(parents=True, exist_ok=True)
        stages[flags["from"]].at(sources[0]).rename(stage.at(target))
        return
    for source in sources:
        found = [name for name in context() if f"{name}/".startswith(f"{source}/")]
        assert found, f"{source} is not there, or .dockerignore leaves it out"
        for name in found:
            within = Path(name).relative_to(source)
            whole = within == Path() and target.endswith("/")
            to = stage.at(target) / (Path(name).name if whole else within)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to)


@cache
def context() -> Sequence[str]:
    """The files that an engine would be sent."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    return sorted(name for name in exclude_paths(str(ROOT), ignored) if (ROOT / name).is_file())


def _run(words: str, stage: _Stage) -> None:
    if words.startswith("uv sync "):
        _sync(words, stage)
    elif not _BROUGHT.match(words):
        scratch = stage.folder.with_name(f"{stage.folder.name}.scratch")
        (scratch / "root").mkdir(parents=True)
        script = _OVER.format(folder=stage.folder, scratch=scratch, command=shlex.quote(words))
        subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=True)


def _sync(words: str, stage: _Stage) -> None:
    environment = stage.at(stage.told["UV_PROJECT_ENVIRONMENT"])
    told = {
        **{name: value for name, value in os.environ.items() if not name.startswith("UV_")},
        **stage.told,
        "PATH": f"{Path(uv()).parent}:{os.environ['PATH']}",
        "UV_COMPILE_BYTECODE": "0",
        "UV_LINK_MODE": "hardlink",
        "UV_PROJECT_ENVIRONMENT": str(environment),
        "UV_PYTHON": f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}",
    }
    subprocess.run(shlex.split(f"{words} --quiet"), cwd=stage.at(""), env=told, check=True)
    if "--no-editable" in words:
        _as_if_there(environment, stage)
        _compile(environment)


def _as_if_there(environment: Path, stage: _Stage) -> None:
    """Let the scripts name their Python as the image will have it."""
    here = str(stage.folder).encode()
    for script in (environment / "bin").iterdir():
        if script.is_file() and here in (told := script.read_bytes()):
            mode = script.stat().st_mode
            script.unlink()  # it may be a link into the cache
            script.write_bytes(told.replace(here, b""))
            script.chmod(mode)


def _compile(environment: Path) -> None:
    ours = Path(sysconfig.get_path("purelib"))
    (theirs,) = environment.glob("lib/python*/site-packages")
    for folder, _, files in os.walk(theirs):
        compiled = ours / Path(folder).relative_to(theirs) / "__pycache__"
        if any(name.endswith(".py") for name in files) and compiled.is_dir():
            shutil.copytree(compiled, Path(folder) / "__pycache__", copy_function=os.link)
    told = [str(environment / "bin" / "python"), "-m", "compileall", "-q", "-j", "0"]
    subprocess.run([*told, str(theirs)], stdout=subprocess.DEVNULL, check=False)
