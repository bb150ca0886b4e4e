"""What a container wants, and the root file system that it gets: the script that makes it.

The layer of its image lies over a bare system whose `/usr` is this machine's, and what it writes
lies over both, in memory, until it ends: as an engine does it.
"""

import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_ETC = ("alternatives", "ca-certificates", "ld.so.cache", "localtime", "nsswitch.conf", "ssl")
"""What a base image has in `/etc` and is taken from this machine; all else there is not."""


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine at `target`; without a source, memory.

    Such memory has the mode of the image's own folder there, and is root's, unless `options` say
    otherwise.
    """

    target: str
    source: Path | None = None
    read_only: bool = False
    options: str = ""


@dataclass(frozen=True)
class Wanted:
    """A container: its words run as user and group, over the folder `layer` of its image.

    `layer` is laid over a bare system whose `/usr` is this machine's. The environment is all that
    the words see, beside `HOME`, `HOSTNAME` and `PATH` as an engine sets them.
    """

    name: str
    layer: Path
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int] = (0, 0)
    workdir: str = "/"
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    no_new_privileges: bool = False
    no_capabilities: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0

    @property
    def told(self) -> dict[str, str]:
        return {**PATH, "HOSTNAME": self.name, "HOME": self._home(), **self.environment}

    def named(self, name: str) -> "Wanted":
        """The same under another name."""
        return replace(self, name=name)

    def _home(self) -> str:
        """As the image's `/etc/passwd` has it."""
        accounts = self.layer / "etc" / "passwd"
        lines = accounts.read_text().splitlines() if accounts.exists() else []
        homes = [line.split(":")[5] for line in lines if line.split(":")[2] == str(self.user[0])]
        return homes[0] if homes else "/"

    def begun(self, words: Sequence[str]) -> list[str]:
        """These words as its user, with its environment and nothing else."""
        rights = ["--no-new-privs"] if self.no_new_privileges else []
        rights += ["--bounding-set=-all", "--inh-caps=-all"] if self.no_capabilities else []
        user, group = self.user
        as_user = [f"--reuid={user}", f"--regid={group}", "--clear-groups", *rights]
        told = [f"{name}={value}" for name, value in self.told.items()]
        env = ["/usr/bin/env", "-i", "-C", self.workdir, *told]
        return ["/usr/bin/setpriv", *as_user, *env, *words]


def entering(wanted: Wanted, room: Path, base: Path) -> str:
    """The script that makes a container's root, enters it, and becomes its words."""
    root = room / "root"
    python = _mounting(Mount(sys.base_prefix, Path(sys.base_prefix), read_only=True))
    return f"""
        bind() {{ mount --bind "$1" "$2"; [ "$3" = rw ] || mount -o remount,bind,"$3" "$2"; }}
        memory() {{
            mode=$([ ! -d "$1" ] || stat -c mode=%a "$1")
            mkdir -p "$1"
            mount -t tmpfs -o "noexec,nosuid,nodev,${{mode:-mode=1777}}${{2:+,$2}}" tmpfs "$1"
        }}
        mount -t tmpfs tmpfs {room}
        mkdir {room}/upper {room}/work {root}
        mount -t overlay overlay {root} \
            -o lowerdir={wanted.layer}:{base},upperdir={room}/upper,workdir={room}/work
        cd {root}
        bind /usr usr ro
        {python if sys.base_prefix != "/usr" else ""}
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
        mkdir dev/shm .machine
        mount -t tmpfs -o mode=1777,size=64m tmpfs dev/shm
        echo {wanted.name} > /proc/sys/kernel/hostname
        {"".join(map(_mounting, wanted.mounts))}
        {"mount -o remount,bind,ro ." if wanted.read_only else ""}
        pivot_root . .machine
        cd /
        umount -l /.machine
        echo >&0
        exec </dev/null
        exec {shlex.join(wanted.begun(wanted.words))}"""


def _mounting(mount: Mount) -> str:
    target = shlex.quote(f".{mount.target}")
    if mount.source is None:
        return f"\n        memory {target} {shlex.quote(mount.options)}"
    source, way = shlex.quote(str(mount.source)), "ro" if mount.read_only else "rw"
    make = f"mkdir -p {target}"
    if mount.source.is_file():
        make = f"mkdir -p $(dirname {target}); [ -e {target} ] || touch {target}"
    return f"\n        {make}; bind {source} {target} {way}"


def bare_system(base: Path, addresses: Mapping[str, str]) -> None:
    """The lowest layer: the folders and the `/etc` that a small distribution has."""
    for name in ("dev", "etc", "proc", "root", "run", "sys", "usr", "var"):
        (base / name).mkdir(parents=True)
    for name in ("tmp", "var/tmp"):
        (base / name).mkdir()
        (base / name).chmod(0o1777)
    for name in ("bin", "lib", "lib64", "sbin"):
        (base / name).symlink_to(f"usr/{name}")
    (base / "var" / "run").symlink_to("../run")
    found = [f"/etc/{name}" for name in _ETC if Path("/etc", name).exists()]
    subprocess.run(["cp", "-a", *found, str(base / "etc")], check=True)
    hosts = [f"{address} {name}\n" for name, address in addresses.items()]
    (base / "etc" / "hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts))
