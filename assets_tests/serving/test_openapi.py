"""The document says what is so: a tool that tries everything it allows finds no contradiction."""

from commands import command
from serving_hands import Serving

REFUSALS = """
[checks]
negative_data_rejection.expected-statuses = ["4xx", "5xx"]
"""
"""What is invalid and too large as well is refused for either: 413 is among what may be said."""


def tried(server: Serving, *words: str) -> None:
    """Let schemathesis try valid and invalid requests; it ends with 0 if it finds nothing."""
    config = server.bench.home / "schemathesis.toml"
    config.write_text(REFUSALS)
    told = ("--max-examples", "25", "--seed", "1", "--no-color")
    run = ("--config-file", str(config), "run", f"{server.url}/openapi.json", *told)
    done = command(server.bench.environment, "schemathesis", *run, *words)
    shown = "\n".join(line[:300] for line in done.stdout.splitlines())
    assert done.returncode == 0, shown
    assert "Selected: 0" not in done.stdout


def test_nothing_contradicts_the_document(server: Serving) -> None:
    tried(server, "--exclude-path-regex", "infer")


def test_tensors_contradict_it_only_by_what_no_schema_can_say(server: Serving) -> None:
    """That there is a tensor for each field, and as many values as the shape says."""
    words = ("--include-path-regex", "infer", "--exclude-checks", "positive_data_acceptance")
    tried(server, *words)


def test_the_page_for_people_needs_nothing_from_elsewhere(server: Serving) -> None:
    page = server.get("/docs").text
    assert f"/models/{server.bench.model}/predict" in page
    assert "//" not in page
    assert "<script" not in page
