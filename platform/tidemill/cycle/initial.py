"""The initial model: trained once from historical data, first champion and first baseline."""

from tidemill.core import canonical, history, learner, replay
from tidemill.core.errors import DigestMismatch, ModelPruned, SpecInvalid
from tidemill.core.ledger import Chain, Entry
from tidemill.core.plans import INITIAL_KEY, Plan, PlannedRange
from tidemill.core.records import InitialModel, Manifest, Sample
from tidemill.core.tables import library_versions, to_parquet
from tidemill.cycle import extract
from tidemill.cycle.archive import file_ref, unless_damaged
from tidemill.cycle.deploy import append, read_chain
from tidemill.cycle.lines import adoptions, refuse_change
from tidemill.cycle.mill import Mill
from tidemill.cycle.plan import plan_initial
from tidemill.failpoints import reached


def initial(mill: Mill) -> InitialModel:
    """Train, commit and deploy the initial model; on the same data and spec again, a no-op.

    Raises `WindowOpen` while the log has not reached the first window, `LineChanged` where data
    or learning spec are others than before, `SpecInvalid` where there is nothing to learn from,
    and what `extract` raises.
    """
    made = train(mill)
    _deploy(mill, made)
    return made


def train(mill: Mill) -> InitialModel:
    """The initial model, committed but not deployed."""
    standing = unless_damaged(mill.archive.initial)
    if standing is not None and standing.learning_spec != mill.learning():
        if not any(adoptions(mill.archive)):
            refuse_change(mill, standing.learning_spec, mill.learning())
        mill = mill.under(standing.learning_spec)
    manifest = _file_batch(mill) if mill.history is not None else _topic_batch(mill)
    if standing is not None and _intact(mill, standing):
        return standing
    return mill.archive.commit_initial(_learn(mill, manifest))


def _topic_batch(mill: Mill) -> Manifest:
    """The topic's history before the first window, planned and archived once."""
    return extract.extract_plan(mill, plan_initial(mill))


def _file_batch(mill: Mill) -> Manifest:
    """The file of historical data, archived once."""
    assert mill.history is not None
    name, data = mill.history()
    sha256 = canonical.digest(data)
    standing = unless_damaged(lambda: mill.archive.manifest(INITIAL_KEY))
    if standing is not None:
        if standing.plan != sha256:
            refuse_change(mill, {"initial.file": standing.plan}, {"initial.file": sha256})
        if extract.intact(mill, standing):
            return standing
    chunk = history.read(mill.spec, name, data)
    rows = PlannedRange(chunk.partition, 0, len(chunk.offsets))
    planned = Plan(
        model=mill.model,
        window=INITIAL_KEY,
        start=0,
        end=mill.spec.calendar.first.start,
        topic=name,
        cluster_id="",
        topic_id="",
        epoch=history.EPOCH,
        ranges=(rows,),
        previous=None,
    )
    return extract.settle(mill, planned, sha256, lambda: extract.decode(mill, [chunk]))


def _intact(mill: Mill, made: InitialModel) -> bool:
    try:
        mill.archive.bundle(made.digest)
        mill.archive.file(made.sample.snapshot)
    except (DigestMismatch, ModelPruned):
        return False
    return True


def _learn(mill: Mill, manifest: Manifest) -> InitialModel:
    """Learn from the batch by the rules of a retraining; its sample is the first snapshot."""
    if manifest.rows == 0:
        raise SpecInvalid(
            f"There is no row of history to train the initial model of {mill.model} from.",
            "Produce events before `windows.start`, let that be later, or name `initial.file`.",
        )
    rows = learner.sort_canonical(extract.rows_of(mill, manifest))
    spec = mill.spec.learner.replay
    identified = replay.with_epoch(rows, manifest.epoch)
    sample = replay.sample([identified], spec.rows, spec.half_life, mill.model)
    data = to_parquet(sample)
    snapshot = file_ref(f"samples/{INITIAL_KEY}", "parquet", data)
    mill.archive.put_file(snapshot, data)
    reached("fit.before")
    bundle = learner.fit(
        mill.spec,
        sample,
        parent=None,
        continue_=False,
        golden=rows,
        window=None,
        seed=mill.spec.learner.seed,
        num_threads=mill.num_threads,
        function=mill.features,
    )
    model = mill.load(mill.archive.put_bundle(bundle))
    return InitialModel(
        model=mill.model,
        batch=mill.archive.committed(f"batches/{INITIAL_KEY}/manifest.json"),
        learning_spec=mill.learning(),
        digest=model.digest,
        num_iterations=model.num_iterations,
        tree_digest=model.tree_digest,
        rows=manifest.rows,
        data_end_ms=mill.spec.calendar.first.start,
        sample=Sample(snapshot),
        libraries=library_versions(),
    )


def _deploy(mill: Mill, made: InitialModel) -> None:
    """Write the ledger's entry 0, unless it is there."""

    def entry(chain: Chain) -> Entry | None:
        if chain.head is not None:
            return None
        return Entry(
            model=mill.model,
            seq=0,
            kind="deploy",
            digest=made.digest,
            as_of=None,
            as_of_ms=None,
            verdict=None,
            evidence=None,
            actor=mill.by,
            reason="the initial model",
            prev=None,
        )

    if read_chain(mill).head is None:
        mill.prover.prove(mill.archive.bundle(made.digest))
        append(mill, entry)
