"""The provider's metadata. Airflow reads it in every process, so it imports nothing heavy."""

from typing import Any

_INTEGRATION = "Dagster"


def get_provider_info() -> dict[str, Any]:
    """The provider's hook, operator, sensor, triggers, link and connection type."""
    return {
        "package-name": "tidemill-airflow",
        "name": _INTEGRATION,
        "description": "Materializes Dagster assets from Airflow, over GraphQL.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://docs.dagster.io",
                "tags": ["service"],
            }
        ],
        "operators": [_modules("operators")],
        "sensors": [_modules("sensors")],
        "hooks": [_modules("hooks")],
        "triggers": [_modules("triggers")],
        "connection-types": [
            {
                "connection-type": "dagster",
                "hook-class-name": "tidemill_airflow.hooks.dagster.DagsterHook",
                "hook-name": _INTEGRATION,
                "ui-field-behaviour": {
                    "hidden-fields": ["login"],
                    "relabeling": {"schema": "Scheme", "password": "Token"},
                    "placeholders": {
                        "host": "127.0.0.1",
                        "port": "3000",
                        "schema": "http or https",
                        "password": "for Dagster+ or a proxy; otherwise empty",
                        "extra": '{"path": "/prefix", "ui": "https://dagster.example.com"}',
                    },
                },
            }
        ],
        "extra-links": ["tidemill_airflow.links.dagster.DagsterRunLink"],
    }


def _modules(package: str) -> dict[str, Any]:
    return {
        "integration-name": _INTEGRATION,
        "python-modules": [f"tidemill_airflow.{package}.dagster"],
    }
