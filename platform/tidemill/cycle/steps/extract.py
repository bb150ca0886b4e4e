"""Extract: read exactly the offsets of a window's plan and archive them as its batch."""

from tidemill.core.records import Manifest
from tidemill.core.windows import Window
from tidemill.cycle.context import ModelContext
from tidemill.cycle.lineage import checked_lineage_or_none
from tidemill.cycle.planning.plan import plan_window
from tidemill.cycle.steps.batch import extract_plan


def extract(ctx: ModelContext, window: Window) -> Manifest:
    """The batch of a window: planned, read, decoded, checked and committed.

    An existing batch is verified, and rebuilt from the log if its bytes are damaged, unless
    `retention_windows` has pruned them. Raises what `plan_window` raises (`LineageChanged` before
    anything is planned), `OffsetsExpired`, `LogUnavailable`, `TooManyRejects`, `SchemaBroken` and
    `DataLost`; then nothing is committed. The raw records of a refused batch are quarantined.
    """
    plan = plan_window(ctx, window)
    lineage = checked_lineage_or_none(ctx, window)
    return extract_plan(ctx.with_learning_spec(lineage.learning_spec) if lineage else ctx, plan)
