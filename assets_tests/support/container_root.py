"""A container's specification, and the script that creates its root file system.

The image's layer is mounted over a base system whose `/usr` is this machine's. Writes go to a layer
in memory on top of both and are lost when the container ends.
"""

import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_HOST_ETC_NAMES = (
    "alternatives",
    "ca-certificates",
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "ssl",
)
"""The entries of `/etc` that a base image has; they are taken from this machine."""


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine mounted at `target`; a tmpfs if there is no source.

    A tmpfs has the mode of the image's folder at `target` and is owned by root, unless `options`
    override that.
    """

    target: str
    source: Path | None = None
    read_only: bool = False
    options: str = ""


@dataclass(frozen=True)
class ContainerSpec:
    """A container: its command runs as this user and group on the image's folder `layer`.

    `layer` is mounted over a base system whose `/usr` is this machine's. The command sees `env` and
    nothing else, except `HOME`, `HOSTNAME` and `PATH` as an engine sets them.
    """

    name: str
    layer: Path
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int] = (0, 0)
    workdir: str = "/"
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    no_new_privileges: bool = False
    no_capabilities: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0

    @property
    def full_env(self) -> dict[str, str]:
        return {**PATH, "HOSTNAME": self.name, "HOME": self._home(), **self.env}

    def with_name(self, name: str) -> "ContainerSpec":
        """The same specification with another name."""
        return replace(self, name=name)

    def _home(self) -> str:
        """The user's home in the image's `/etc/passwd`."""
        passwd_file = self.layer / "etc" / "passwd"
        lines = passwd_file.read_text().splitlines() if passwd_file.exists() else []
        homes = [line.split(":")[5] for line in lines if line.split(":")[2] == str(self.user[0])]
        return homes[0] if homes else "/"

    def exec_command(self, command: Sequence[str]) -> list[str]:
        """A command that runs as its user, with its environment only."""
        privilege_options = ["--no-new-privs"] if self.no_new_privileges else []
        privilege_options += (
            ["--bounding-set=-all", "--inh-caps=-all"] if self.no_capabilities else []
        )
        uid, gid = self.user
        options = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *privilege_options]
        assignments = [f"{name}={value}" for name, value in self.full_env.items()]
        env_command = ["/usr/bin/env", "-i", "-C", self.workdir, *assignments]
        return ["/usr/bin/setpriv", *options, *env_command, *command]


def root_script(spec: ContainerSpec, folder: Path, base: Path) -> str:
    """A script that creates a container's root, enters it and executes its command."""
    root = folder / "root"
    python_mount = _mount_script(Mount(sys.base_prefix, Path(sys.base_prefix), read_only=True))
    return f"""
        bind() {{ mount --bind "$1" "$2"; [ "$3" = rw ] || mount -o remount,bind,"$3" "$2"; }}
        memory() {{
            mode=$([ ! -d "$1" ] || stat -c mode=%a "$1")
            mkdir -p "$1"
            mount -t tmpfs -o "noexec,nosuid,nodev,${{mode:-mode=1777}}${{2:+,$2}}" tmpfs "$1"
        }}
        mount -t tmpfs tmpfs {folder}
        mkdir {folder}/upper {folder}/work {root}
        mount -t overlay overlay {root} \
            -o lowerdir={spec.layer}:{base},upperdir={folder}/upper,workdir={folder}/work
        cd {root}
        bind /usr usr ro
        {python_mount if sys.base_prefix != "/usr" else ""}
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys
        mount -t tmpfs -o mode=755 tmpfs dev
        for each in full null random tty urandom zero; do
            touch dev/$each
            mount --bind /dev/$each dev/$each
        done
        ln -s /proc/self/fd dev/fd
        ln -s /proc/self/fd/1 dev/stdout
        ln -s /proc/self/fd/2 dev/stderr
        mkdir dev/shm .host
        mount -t tmpfs -o mode=1777,size=64m tmpfs dev/shm
        echo {spec.name} > /proc/sys/kernel/hostname
        {"".join(map(_mount_script, spec.mounts))}
        {"mount -o remount,bind,ro ." if spec.read_only else ""}
        pivot_root . .host
        cd /
        umount -l /.host
        echo >&0
        exec </dev/null
        exec {shlex.join(spec.exec_command(spec.command))}"""


def _mount_script(mount: Mount) -> str:
    target = shlex.quote(f".{mount.target}")
    if mount.source is None:
        return f"\n        memory {target} {shlex.quote(mount.options)}"
    source, mode = shlex.quote(str(mount.source)), "ro" if mount.read_only else "rw"
    create = f"mkdir -p {target}"
    if mount.source.is_file():
        create = f"mkdir -p $(dirname {target}); [ -e {target} ] || touch {target}"
    return f"\n        {create}; bind {source} {target} {mode}"


def create_base_system(base: Path, addresses: Mapping[str, str]) -> None:
    """Create the lowest layer: the folders and the `/etc` of a small distribution."""
    for name in ("dev", "etc", "proc", "root", "run", "sys", "usr", "var"):
        (base / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (base / name).mkdir()
        (base / name).chmod(0o1777)
    for name in ("bin", "lib", "lib64", "sbin"):
        (base / name).symlink_to(f"usr/{name}")
    (base / "var" / "run").symlink_to("../run")
    etc_paths = [f"/etc/{name}" for name in _HOST_ETC_NAMES if Path("/etc", name).exists()]
    subprocess.run(["cp", "-a", *etc_paths, str(base / "etc")], check=True)
    hosts = [f"{address} {name}\n" for name, address in addresses.items()]
    (base / "etc" / "hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts))
