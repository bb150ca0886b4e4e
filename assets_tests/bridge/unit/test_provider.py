"""The provider's metadata."""

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


def test_provider_info_imports_nothing_of_airflow() -> None:
    code = (
        "import sys, tidemill_airflow.provider as p; p.get_provider_info();"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"airflow", "httpx", "pydantic"} & set(result.stdout.split())


def test_everything_in_the_provider_info_exists() -> None:
    info = provider_info()
    for kind in ("operators", "sensors", "hooks", "triggers"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                import_module(module)
    for link in info["extra-links"]:
        module, name = link.rsplit(".", 1)
        assert getattr(import_module(module), name)().name == "Dagster run"
    (connection_type,) = info["connection-types"]
    module, name = connection_type["hook-class-name"].rsplit(".", 1)
    hook = getattr(import_module(module), name)
    assert issubclass(hook, BaseHook)
    assert hook.conn_type == connection_type["connection-type"] == "dagster"
