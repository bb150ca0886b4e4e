"""`.env.example` has every setting that can be changed, with its default; secrets are files."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from tidemill.settings import Settings

ROOT = Path(__file__).parents[2]
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
    "TIDEMILL_UP__POSTGRES_PORT",  # only used by `tidemill up`
}
"""Settings of containers that only the compose file sets."""


def build_context() -> list[str]:
    """The files that an engine is sent: those that `.dockerignore` does not exclude."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    return [name for name in exclude_paths(str(ROOT), ignored) if (ROOT / name).is_file()]


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


def test_the_example_has_the_variables_of_the_compose_file_with_their_defaults() -> None:
    variables = re.findall(r"\$\{(\w+):-(.*?)\}", COMPOSE)
    assert variables
    assert {name: EXAMPLE[name] for name, _ in variables} == dict(variables)


def test_the_example_has_the_defaults_of_all_other_settings() -> None:
    different = set(re.findall(r"\$\{(\w+):-", COMPOSE))
    for name, default in defaults().items():
        if name not in different | FIXED and default is not None:
            text = EXAMPLE[name]
            assert text == str(default) or json.loads(text) == to_jsonable_python(default), name


def test_all_of_the_example_can_be_set_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIDEMILL_")]:
        monkeypatch.delenv(name)
    for name, value in EXAMPLE.items():
        if not name.endswith("_FILE"):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.alerts.command == ("logger", "-t", "tidemill")
    assert settings.kafka.bootstrap_servers == "kafka:9092"


def test_nothing_in_the_example_is_overridden_by_the_compose_file() -> None:
    for name in EXAMPLE:
        match = re.search(rf"^ +{name}: (.*)$", COMPOSE, re.MULTILINE)
        assert match is None or f"${{{name}:-" in match[1], name


def run_entrypoint(*command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with the entry point of the images."""
    return subprocess.run(
        [DEPLOY / "docker" / "entrypoint.sh", *command],
        env={"PATH": os.defpath, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_missing_secret_is_named_and_the_command_does_not_run() -> None:
    done = run_entrypoint("echo", "ran", PGPASSWORD_FILE="/run/secrets/no-such-secret")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/run/secrets/no-such-secret: deploy/generate-secrets.sh generates" in done.stderr


def test_a_variable_that_names_no_secret_is_not_changed() -> None:
    done = run_entrypoint("sh", "-c", 'echo "$A_FILE ${A-unset} $1"', "sh", "a b", A_FILE="/tmp/a")
    assert done.stdout == "/tmp/a unset a b\n"


def generate_secrets(folder: Path) -> dict[str, str]:
    """The secrets by name, after the missing ones were generated."""
    subprocess.run([DEPLOY / "generate-secrets.sh", folder], check=True, stdout=subprocess.DEVNULL)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_secrets_are_generated_once_in_a_folder_that_only_the_owner_can_enter(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "secrets"
    generated = generate_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(generated) == set(re.findall(r"\{file: secrets/(\w+)\}", COMPOSE))
    assert len(set(generated.values())) == len(generated)
    assert len(json.loads(generated["airflow_admin"])["admin"]) == 16
    (folder / "serve_token").unlink()
    second = generate_secrets(folder)
    assert {name for name in second if second[name] != generated[name]} == {"serve_token"}


def test_neither_git_nor_an_image_contains_secrets_or_settings() -> None:
    private = ["deploy/secrets/postgres", "deploy/.env"]
    ignored = subprocess.run(
        ["git", "check-ignore", *private], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ignored.stdout.split() == private
    assert "deploy/docker/entrypoint.sh" in build_context()
    assert not [name for name in build_context() if "secrets/" in name or ".env" in name]
