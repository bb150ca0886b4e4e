"""The initial model: trained once from historical data, first champion and first baseline."""

from tidemill.core import canonical, historical_file, learner, replay
from tidemill.core.errors import SpecInvalid
from tidemill.core.ledger import Chain, Entry
from tidemill.core.parquet import library_versions, to_parquet
from tidemill.core.plans import INITIAL_KEY, Plan, PlannedRange
from tidemill.core.records import InitialModel, Manifest, Sample
from tidemill.cycle.context import ModelContext
from tidemill.cycle.ledger import append_entry, read_chain
from tidemill.cycle.lineage import raise_lineage_changed
from tidemill.cycle.model_store import file_ref, none_if_damaged
from tidemill.cycle.names import SAMPLES, manifest_name
from tidemill.cycle.planning.plan import plan_initial
from tidemill.cycle.steps.batch import extract_plan, get_or_create_batch
from tidemill.cycle.steps.read import decode
from tidemill.failpoints import failpoint


def initial(ctx: ModelContext) -> InitialModel:
    """Train, commit and deploy the initial model; a no-op if repeated with the same data and spec.

    Raises `WindowOpen` while the log has not reached the first window, `LineageChanged` if the data
    or the learning spec have changed, `SpecInvalid` if there is no data to learn from, and what
    `extract` raises.
    """
    initial_model = train(ctx)
    _deploy(ctx, initial_model)
    return initial_model


def train(ctx: ModelContext) -> InitialModel:
    """The initial model, committed but not deployed."""
    existing = none_if_damaged(ctx.repository.initial_model)
    if existing is not None and existing.learning_spec != ctx.learning_spec():
        if not any(ctx.repository.adoptions()):
            raise_lineage_changed(ctx, existing.learning_spec, ctx.learning_spec())
        ctx = ctx.with_learning_spec(existing.learning_spec)
    manifest = _file_batch(ctx) if ctx.historical_data is not None else _topic_batch(ctx)
    if existing is not None and ctx.repository.is_intact(
        [existing.sample.snapshot], [existing.digest]
    ):
        return existing
    return ctx.repository.commit_initial_model(_learn(ctx, manifest))


def _topic_batch(ctx: ModelContext) -> Manifest:
    """The batch of the topic's history before the first window."""
    return extract_plan(ctx, plan_initial(ctx))


def _file_batch(ctx: ModelContext) -> Manifest:
    """The batch of the file of historical data."""
    assert ctx.historical_data is not None
    name, data = ctx.historical_data()
    sha256 = canonical.digest(data)
    existing = none_if_damaged(lambda: ctx.repository.manifest(INITIAL_KEY))
    if existing is not None:
        if existing.plan != sha256:
            raise_lineage_changed(ctx, {"initial.file": existing.plan}, {"initial.file": sha256})
        if ctx.repository.is_intact(existing.files):
            return existing
    record_batch = historical_file.read(ctx.spec, name, data)
    file_range = PlannedRange(record_batch.partition, 0, len(record_batch.offsets))
    plan = Plan(
        model=ctx.model,
        window=INITIAL_KEY,
        start=0,
        end=ctx.spec.calendar.first.start,
        topic=name,
        cluster_id="",
        topic_id="",
        epoch=historical_file.EPOCH,
        ranges=(file_range,),
        previous=None,
    )
    return get_or_create_batch(ctx, plan, sha256, lambda: decode(ctx, [record_batch]))


def _learn(ctx: ModelContext, manifest: Manifest) -> InitialModel:
    """Train on the batch like a retraining; its replay sample is the first snapshot."""
    if manifest.rows == 0:
        raise SpecInvalid(
            f"There are no historical rows to train the initial model of {ctx.model} on.",
            "Produce events before `windows.start`, move it to a later time, or set "
            "`initial.file`.",
        )
    rows = learner.sort_canonical(ctx.load_rows(manifest))
    spec = ctx.spec.learner.replay
    identified = replay.with_epoch(rows, manifest.epoch)
    sample = replay.sample([identified], spec.rows, spec.half_life, ctx.model)
    data = to_parquet(sample)
    snapshot = file_ref(f"{SAMPLES}{INITIAL_KEY}", "parquet", data)
    ctx.repository.put_file(snapshot, data)
    failpoint("fit.before")
    bundle = learner.fit(
        ctx.spec,
        sample,
        parent=None,
        continue_=False,
        golden=rows,
        window=None,
        seed=ctx.spec.learner.seed,
        num_threads=ctx.num_threads,
        function=ctx.feature_function,
    )
    model = ctx.load(ctx.repository.put_bundle(bundle))
    return InitialModel(
        model=ctx.model,
        batch=ctx.repository.require_hash(manifest_name(INITIAL_KEY)),
        learning_spec=ctx.learning_spec(),
        digest=model.digest,
        num_iterations=model.num_iterations,
        tree_digest=model.tree_digest,
        rows=manifest.rows,
        data_end_ms=ctx.spec.calendar.first.start,
        sample=Sample(snapshot),
        libraries=library_versions(),
    )


def _deploy(ctx: ModelContext, initial_model: InitialModel) -> None:
    """Append entry 0 to the ledger, unless the ledger has one."""

    def build_entry(chain: Chain) -> Entry | None:
        if chain.head is not None:
            return None
        return Entry(
            model=ctx.model,
            seq=0,
            kind="deploy",
            digest=initial_model.digest,
            as_of=None,
            as_of_ms=None,
            verdict=None,
            evidence=None,
            actor=ctx.actor,
            reason="the initial model",
            prev=None,
        )

    if read_chain(ctx).head is None:
        ctx.validator.validate(ctx.repository.bundle(initial_model.digest))
        append_entry(ctx, build_entry)
