"""What Airflow is told of the provider."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from airflow.sdk import BaseHook


def provider_info() -> dict[str, Any]:
    (point,) = [
        p for p in entry_points(group="apache_airflow_provider") if p.module.startswith("tidemill_")
    ]
    return dict(point.load()())


def test_telling_of_the_provider_imports_nothing_of_airflow() -> None:
    code = (
        "import sys, tidemill_airflow.provider as p; p.get_provider_info();"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"airflow", "httpx", "pydantic"} & set(done.stdout.split())


def test_everything_the_provider_names_is_there() -> None:
    info = provider_info()
    for room in ("operators", "sensors", "hooks", "triggers"):
        for listed in info[room]:
            for module in listed["python-modules"]:
                import_module(module)
    for link in info["extra-links"]:
        module, name = link.rsplit(".", 1)
        assert getattr(import_module(module), name)().name == "Dagster run"
    (kind,) = info["connection-types"]
    module, name = kind["hook-class-name"].rsplit(".", 1)
    hook = getattr(import_module(module), name)
    assert issubclass(hook, BaseHook)
    assert hook.conn_type == kind["connection-type"] == "dagster"
