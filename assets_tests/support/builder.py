"""Builds images without an engine: what a Dockerfile adds to its base image, as a folder.

Its `RUN uv sync …` steps run verbatim on the copied files only. Debian's packages, uv and Python
are this machine's. To be quick, files are hard links into uv's cache, and bytecode that this
environment has already compiled is reused.
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
_PREINSTALLED = re.compile(r"apt-get |pip install ")
_RUN_STEP_SCRIPT = """
mount -t overlay overlay -o lowerdir=/,upperdir={folder},workdir={scratch} {scratch}/root
exec chroot {scratch}/root sh -ec {command}
"""
_RUN_IMAGE_SCRIPT = """
mount --bind {layer}/opt /opt
mount --bind {folder} /mnt
mount -o remount,bind,ro /opt
mount -o remount,bind,ro /
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ln -s /mnt/secrets /run/secrets
mount -t proc proc /proc
exec {command}
"""


@dataclass
class _Stage:
    """A stage being built: the folder that is `/` to its steps, and their environment."""

    folder: Path
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)

    def host_path(self, path: str) -> Path:
        """The path on this machine of a path in the image."""
        return self.folder / str(PurePosixPath(self.workdir, path)).lstrip("/")


def dockerfile(image: str) -> Path:
    return ROOT / "deploy" / "docker" / f"{image}.Dockerfile"


def uv() -> str:
    """The path of uv, found as in the Makefile."""
    return shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")


def build(image: str, folder: Path) -> Path:
    """What the image adds to its base, in a subfolder of `folder`. Skips the test if not root."""
    if os.geteuid() != 0:
        pytest.skip("not run: only root can mount an overlay file system")
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
                stage.env |= dict(each.split("=", 1) for each in shlex.split(value))
            case "WORKDIR":
                stage.workdir = value
            case "COPY":
                _copy(value, stage, stages)
            case "RUN":
                _run_step(_FLAG.sub("", value), stage)
    return stage.folder


def command_in_image(
    image: str, layer: Path, folder: Path, env: Mapping[str, str], *command: str
) -> tuple[str, ...]:
    """A command that runs `command` through the image's entry point in the built `layer`.

    In it `folder` is `/mnt` and its `secrets` are `/run/secrets`. Nothing else but `/tmp` and
    `/run` is writable, as in a read-only container.
    """
    parser = DockerfileParser(str(dockerfile(image)), parent_env={"PATH": os.defpath})
    instructions = {step["instruction"]: step["value"] for step in parser.structure}
    assignments = [f"{name}={value}" for name, value in {**parser.envs, **env}.items()]
    env_command = ["/usr/bin/env", "-i", "-C", instructions["WORKDIR"], *assignments]
    full_command = [*env_command, *json.loads(instructions["ENTRYPOINT"]), *command]
    script = _RUN_IMAGE_SCRIPT.format(layer=layer, folder=folder, command=shlex.join(full_command))
    unshare_options = ("--mount", "--pid", "--fork", "--kill-child")
    return ("/usr/bin/unshare", *unshare_options, "sh", "-ec", script)


def _copy(value: str, stage: _Stage, stages: dict[str, _Stage]) -> None:
    flags = dict(_FLAG.findall(value))
    *sources, target = _FLAG.sub("", value).split()
    if "from" in flags:
        stage.host_path(target).parent.mkdir(parents=True, exist_ok=True)
        stages[flags["from"]].host_path(sources[0]).rename(stage.host_path(target))
        return
    for source in sources:
        names = [name for name in build_context() if f"{name}/".startswith(f"{source}/")]
        assert names, f"{source} does not exist or is excluded by .dockerignore"
        for name in names:
            relative = Path(name).relative_to(source)
            is_file = relative == Path() and target.endswith("/")
            destination = stage.host_path(target) / (Path(name).name if is_file else relative)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, destination)


@cache
def build_context() -> Sequence[str]:
    """The files of the build context, which an engine would be sent."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    return sorted(name for name in exclude_paths(str(ROOT), ignored) if (ROOT / name).is_file())


def _run_step(command: str, stage: _Stage) -> None:
    if command.startswith("uv sync "):
        _sync(command, stage)
    elif not _PREINSTALLED.match(command):
        scratch = stage.folder.with_name(f"{stage.folder.name}.scratch")
        (scratch / "root").mkdir(parents=True)
        script = _RUN_STEP_SCRIPT.format(
            folder=stage.folder, scratch=scratch, command=shlex.quote(command)
        )
        subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=True)


def _sync(command: str, stage: _Stage) -> None:
    venv = stage.host_path(stage.env["UV_PROJECT_ENVIRONMENT"])
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("UV_")},
        **stage.env,
        "PATH": f"{Path(uv()).parent}:{os.environ['PATH']}",
        "UV_COMPILE_BYTECODE": "0",
        "UV_LINK_MODE": "hardlink",
        "UV_PROJECT_ENVIRONMENT": str(venv),
        "UV_PYTHON": f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}",
    }
    subprocess.run(shlex.split(f"{command} --quiet"), cwd=stage.host_path(""), env=env, check=True)
    if "--no-editable" in command:
        _rewrite_shebangs(venv, stage)
        _compile_bytecode(venv)


def _rewrite_shebangs(venv: Path, stage: _Stage) -> None:
    """Rewrite the scripts to the path that their Python will have in the image."""
    prefix = str(stage.folder).encode()
    for script in (venv / "bin").iterdir():
        if script.is_file() and prefix in (content := script.read_bytes()):
            mode = script.stat().st_mode
            script.unlink()  # it may be a hard link into the cache
            script.write_bytes(content.replace(prefix, b""))
            script.chmod(mode)


def _compile_bytecode(venv: Path) -> None:
    own_packages = Path(sysconfig.get_path("purelib"))
    (packages,) = venv.glob("lib/python*/site-packages")
    for folder, _, files in os.walk(packages):
        compiled = own_packages / Path(folder).relative_to(packages) / "__pycache__"
        if any(name.endswith(".py") for name in files) and compiled.is_dir():
            shutil.copytree(compiled, Path(folder) / "__pycache__", copy_function=os.link)
    command = [str(venv / "bin" / "python"), "-m", "compileall", "-q", "-j", "0"]
    subprocess.run([*command, str(packages)], stdout=subprocess.DEVNULL, check=False)
