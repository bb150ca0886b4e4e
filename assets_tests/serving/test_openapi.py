"""The OpenAPI document matches the server: property-based requests find no contradiction."""

from support.processes.commands import run_command
from support.serving.prediction_server import PredictionServer

CHECKS_CONFIG = """
[checks]
negative_data_rejection.expected-statuses = ["4xx", "5xx"]
"""
"""A request that is both invalid and too large may be rejected with 413 instead of 400."""


def run_schemathesis(server: PredictionServer, *options: str) -> None:
    """Run schemathesis with valid and invalid requests; it exits with 0 if it finds nothing."""
    config = server.harness.home / "schemathesis.toml"
    config.write_text(CHECKS_CONFIG)
    defaults = ("--max-examples", "25", "--seed", "1", "--no-color")
    args = ("--config-file", str(config), "run", f"{server.url}/openapi.json", *defaults)
    result = run_command(server.harness.env, "schemathesis", *args, *options)
    summary = "\n".join(line[:300] for line in result.stdout.splitlines())
    assert result.returncode == 0, summary
    assert "Selected: 0" not in result.stdout


def test_the_server_conforms_to_the_document(server: PredictionServer) -> None:
    run_schemathesis(server, "--exclude-path-regex", "infer")


def test_tensor_requests_conform_except_for_what_a_schema_cannot_express(
    server: PredictionServer,
) -> None:
    """A schema cannot require one tensor per field, nor as many values as the shape has."""
    options = ("--include-path-regex", "infer", "--exclude-checks", "positive_data_acceptance")
    run_schemathesis(server, *options)


def test_the_html_page_has_no_external_resources(server: PredictionServer) -> None:
    page = server.get("/docs").text
    assert f"/models/{server.harness.model}/predict" in page
    assert "//" not in page
    assert "<script" not in page
