"""The document says what is so: a tool that tries everything it allows finds no contradiction."""

from prediction_server import PredictionServer
from processes import run_command

CHECKS_CONFIG = """
[checks]
negative_data_rejection.expected-statuses = ["4xx", "5xx"]
"""
"""What is invalid and too large as well is refused for either: 413 is among what may be said."""


def run_schemathesis(server: PredictionServer, *options: str) -> None:
    """Let schemathesis try valid and invalid requests; it ends with 0 if it finds nothing."""
    config = server.harness.home / "schemathesis.toml"
    config.write_text(CHECKS_CONFIG)
    defaults = ("--max-examples", "25", "--seed", "1", "--no-color")
    args = ("--config-file", str(config), "run", f"{server.url}/openapi.json", *defaults)
    result = run_command(server.harness.env, "schemathesis", *args, *options)
    summary = "\n".join(line[:300] for line in result.stdout.splitlines())
    assert result.returncode == 0, summary
    assert "Selected: 0" not in result.stdout


def test_nothing_contradicts_the_document(server: PredictionServer) -> None:
    run_schemathesis(server, "--exclude-path-regex", "infer")


def test_tensors_contradict_it_only_by_what_no_schema_can_say(server: PredictionServer) -> None:
    """That there is a tensor for each field, and as many values as the shape says."""
    words = ("--include-path-regex", "infer", "--exclude-checks", "positive_data_acceptance")
    run_schemathesis(server, *words)


def test_the_page_for_people_needs_nothing_from_elsewhere(server: PredictionServer) -> None:
    page = server.get("/docs").text
    assert f"/models/{server.harness.model}/predict" in page
    assert "//" not in page
    assert "<script" not in page
