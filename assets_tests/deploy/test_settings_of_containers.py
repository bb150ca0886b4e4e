"""`.env.example` has every setting that one may change, and its default; secrets are files."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from builder import ROOT, context
from tidemill.settings import Settings

DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text()
EXAMPLE = dict(
    re.findall(r"^#([A-Z]\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE)
)
FIXED = {
    "TIDEMILL_FAILPOINTS",  # for tests
    "TIDEMILL_HOME",
    "TIDEMILL_MODELS",
    "TIDEMILL_SERVE__HOST",
    "TIDEMILL_SERVE__TOKEN",
    "TIDEMILL_UP__POSTGRES_PORT",  # nobody but `tidemill up` publishes it
}
"""What containers are told by the compose file alone."""


def defaults() -> dict[str, object]:
    """Every setting of tidemill with its default."""
    result: dict[str, object] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(group := field.default, BaseModel):
            for inner in type(group).model_fields:
                result[f"TIDEMILL_{name}__{inner}".upper()] = getattr(group, inner)
        else:
            result[f"TIDEMILL_{name}".upper()] = field.get_default()
    return result


def test_the_example_has_every_setting_that_is_not_fixed() -> None:
    names = {name.removesuffix("_FILE") for name in EXAMPLE if name.startswith("TIDEMILL_")}
    assert names - {"TIDEMILL_BIND"} == set(defaults()) - FIXED


def test_the_example_has_what_the_compose_file_asks_for_with_the_same_default() -> None:
    asked = re.findall(r"\$\{(\w+):-(.*?)\}", COMPOSE)
    assert asked
    assert {name: EXAMPLE[name] for name, _ in asked} == dict(asked)


def test_the_example_has_the_defaults_of_the_settings_where_containers_have_no_others() -> None:
    own = set(re.findall(r"\$\{(\w+):-", COMPOSE))
    for name, default in defaults().items():
        if name not in own | FIXED and default is not None:
            said = EXAMPLE[name]
            assert said == str(default) or json.loads(said) == to_jsonable_python(default), name


def test_all_of_the_example_can_be_set_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIDEMILL_")]:
        monkeypatch.delenv(name)
    for name, value in EXAMPLE.items():
        if not name.endswith("_FILE"):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.alerts.command == ("logger", "-t", "tidemill")
    assert settings.kafka.bootstrap_servers == "kafka:9092"


def test_nothing_in_the_example_is_overruled_by_the_compose_file() -> None:
    for name in EXAMPLE:
        told = re.search(rf"^ +{name}: (.*)$", COMPOSE, re.MULTILINE)
        assert told is None or f"${{{name}:-" in told[1], name


def run_entrypoint(*command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """What the images' entry point does with these words."""
    return subprocess.run(
        [DEPLOY / "docker" / "entrypoint.sh", *command],
        env={"PATH": os.defpath, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_secret_that_is_not_there_is_named_and_nothing_runs() -> None:
    done = run_entrypoint("echo", "ran", PGPASSWORD_FILE="/run/secrets/no-such-secret")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/run/secrets/no-such-secret: deploy/generate-secrets.sh draws" in done.stderr


def test_what_names_no_secret_is_left_as_it_is() -> None:
    done = run_entrypoint("sh", "-c", 'echo "$A_FILE ${A-unset} $1"', "sh", "a b", A_FILE="/tmp/a")
    assert done.stdout == "/tmp/a unset a b\n"


def generate_secrets(folder: Path) -> dict[str, str]:
    """The secrets, as they are after drawing those that are missing."""
    subprocess.run([DEPLOY / "secrets.sh", folder], check=True, stdout=subprocess.DEVNULL)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_secrets_are_drawn_once_and_only_their_owner_comes_near_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    drawn = generate_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(drawn) == set(re.findall(r"\{file: secrets/(\w+)\}", COMPOSE))
    assert len(set(drawn.values())) == len(drawn)
    assert len(json.loads(drawn["airflow_admin"])["admin"]) == 16
    (folder / "serve_token").unlink()
    again = generate_secrets(folder)
    assert {name for name, told in again.items() if told != drawn[name]} == {"serve_token"}


def test_neither_git_nor_an_image_takes_secrets_or_settings_in() -> None:
    ours = ["deploy/secrets/postgres", "deploy/.env"]
    ignored = subprocess.run(
        ["git", "check-ignore", *ours], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ignored.stdout.split() == ours
    assert "deploy/docker/entrypoint.sh" in context()
    assert not [name for name in context() if "secrets/" in name or ".env" in name]
