"""A model with fake steps over a folder that outlives a process."""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from tidemill.core.deployment import Deployment
from tidemill.core.event_log import TimestampCounts
from tidemill.core.gate import GateState
from tidemill.core.loss_differences import Estimate
from tidemill.core.records import Candidate, FileRef, InitialModel, Manifest, Sample
from tidemill.core.report_records import (
    CumulativeLosses,
    GateSnapshot,
    InputDigests,
    PermutationCheck,
    Report,
)
from tidemill.core.spec import ModelSpec
from tidemill.core.windows import Window
from tidemill.defs.resources import TidemillResource
from tidemill.settings import Settings

INITIAL = "0" * 64
SAMPLE = Sample(FileRef("samples/0.parquet", INITIAL, 1))


def digest_of(window: Window) -> str:
    return window.key.replace("-", "").rjust(64, "0")


@dataclass
class FakeSteps:
    """Replaces the steps of an update. Every candidate is promoted; `before_step` may raise."""

    folder: Path
    before_step: Callable[[str, Window], None] = lambda step, window: None
    rows: int = 500
    calls: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def open_model(
        self, spec: ModelSpec, settings: Settings, *, exclusive: bool
    ) -> Iterator[SimpleNamespace]:
        repository = SimpleNamespace(
            initial_model=lambda: self._exists("initial"),
            plan=lambda key: None,
            bundle=lambda digest: digest.encode(),
        )
        validator = SimpleNamespace(validate=lambda bundle: None)
        head = self._exists("initial")
        yield SimpleNamespace(
            model=spec.name,
            spec=spec,
            repository=repository,
            validator=validator,
            chain=lambda: SimpleNamespace(head=head),
        )

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the functions in their modules, from which the assets import them."""
        for step in ("initial", "extract", "update", "evaluate", "deploy"):
            module = importlib.import_module(f"tidemill.cycle.steps.{step}")
            monkeypatch.setattr(module, step, getattr(self, f"_{step}"))
        module = importlib.import_module("tidemill.cycle.operations.prune")
        monkeypatch.setattr(module, "prune", lambda ctx, window: None)

    @property
    def ledger(self) -> list[str]:
        """The windows that were deployed, in order."""
        path = self.folder / "ledger.json"
        return json.loads(path.read_text()) if path.exists() else []

    def _exists(self, name: str) -> bool | None:
        return (self.folder / name).exists() or None

    def _call(self, step: str, window: Window) -> None:
        self.calls.append((step, window.key))
        self.before_step(step, window)

    def _initial(self, ctx: SimpleNamespace) -> InitialModel:
        (self.folder / "initial").touch()
        return InitialModel(ctx.model, INITIAL, {}, INITIAL, 200, INITIAL, 1000, 0, SAMPLE, {})

    def _extract(self, ctx: SimpleNamespace, window: Window) -> Manifest:
        self._call("extract", window)
        return Manifest(
            ctx.model, window.key, 0, INITIAL, self.rows, 1, 2, 3, 4,
            TimestampCounts(self.rows + 1), {}, {"not JSON": 1}, None, None, INITIAL,
        )  # fmt: skip

    def _update(self, ctx: SimpleNamespace, window: Window) -> Candidate:
        self._call("update", window)
        digest = digest_of(window)
        return Candidate(
            ctx.model, "l" * 64, window.key, "continue", INITIAL, INITIAL, digest, 210, digest,
            None, 0, 1, SAMPLE, 0, {},
        )  # fmt: skip

    def _evaluate(self, ctx: SimpleNamespace, window: Window) -> Report:
        self._call("evaluate", window)
        digest = digest_of(window)
        snapshot = GateSnapshot(INITIAL, INITIAL, "FOLLOW", 0)
        return Report(
            model=ctx.model, window=window.key, lineage="l" * 64, policy="always",
            verdict="promote", reasons=("it is newer",),
            inputs=InputDigests(None, INITIAL, INITIAL), entries=(), ledger_seq=-1,
            previous_state=snapshot, opening_state=snapshot,
            state=GateState(digest, INITIAL), models={}, rows=self.rows,
            timestamps=TimestampCounts(self.rows + 1), clusters=24,
            cluster_length=3_600_000, tail_rows=100, base_rate=0.2,
            losses={"champion": 0.5, "prior": None}, comparisons=(), auc=None, calibration=None,
            slices=(),
            permutation_check=PermutationCheck(
                Estimate(self.rows, 24, 0.1, 0.5, 0.01, 10.0, 23), False
            ),
            cumulative_losses=CumulativeLosses(),
        )  # fmt: skip

    def _deploy(self, ctx: SimpleNamespace, window: Window, final: bool) -> Deployment:
        self._call("deploy", window)
        deployed = self.ledger
        if not final:
            return Deployment("deferred", INITIAL, len(deployed), "a later window decides")
        if window.key not in deployed:
            deployed.append(window.key)
            (self.folder / "ledger.json").write_text(json.dumps(deployed))
        return Deployment("deployed", digest_of(window), len(deployed), "it is newer")


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec.create(
        "tides",
        {
            "topic": "tides",
            "fields": {"height": "number"},
            "label": "flood",
            "windows": {"start": "2024-01-01"},
        },
    )


@pytest.fixture
def fake_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSteps:
    folder = tmp_path / "model"
    folder.mkdir()
    steps = FakeSteps(folder)
    steps.install(monkeypatch)
    return steps


@pytest.fixture
def tidemill_resource(tmp_path: Path, fake_steps: FakeSteps) -> TidemillResource:
    """A resource whose models have fake steps, and no tracker."""
    return TidemillResource(Settings(home=tmp_path), fake_steps.open_model, lambda settings: None)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A persistent instance in `tmp_path/dagster`, so that a second process can open it too."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened
