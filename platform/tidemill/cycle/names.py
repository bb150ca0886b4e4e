"""The names of a model's records and files in the store, below the folder of the model."""

BATCHES = "batches/"
CANDIDATES = "candidates/"
LEDGER = "ledger/"
PLANS = "plans/"
QUARANTINE = "quarantine/"
REPORTS = "reports/"
SAMPLES = "samples/"

FIRST_LINEAGE = "lineages/0.json"
INITIAL_MODEL = "initial.json"
LEDGER_TOPIC = "ledger/topic.json"
OBSERVATIONS = "observations.json"
PRUNE_MARKER = "pruned.json"


def plan_name(window: str) -> str:
    return f"{PLANS}{window}.json"


def manifest_name(window: str) -> str:
    return f"{BATCHES}{window}/manifest.json"


def candidate_name(lineage_id: str, window: str) -> str:
    return f"{CANDIDATES}{lineage_id[:16]}/{window}.json"


def report_name(window: str) -> str:
    return f"{REPORTS}{window}.json"


def adoption_name(number: int) -> str:
    return f"adoptions/{number}.json"


def entry_name(seq: int) -> str:
    """The name of the copy of a ledger entry."""
    return f"{LEDGER}{seq:08d}.json"


def bundle_name(digest: str) -> str:
    return f"models/{digest}.bundle"
