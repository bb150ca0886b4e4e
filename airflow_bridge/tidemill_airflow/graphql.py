"""What is asked of Dagster, word for word, and how its answers are read. All input is variables."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill_airflow.runs import Fault, Run, RunStatus, metadata_texts

VERSION = "query TidemillVersion { version }"

ASSETS = """
query TidemillAssets($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) {
    assetKey { path } isMaterializable isPartitioned
    partitionDefinition { type }
    repository { name location { name } }
  }
}
"""
LOCATIONS = """
query TidemillLocations {
  workspaceOrError {
    __typename
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename } } }
  }
}
"""
PARTITION_KEYS = """
query TidemillPartitionKeys($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) { partitionKeys }
}
"""
WINDOWS = """
query TidemillWindows($params: AssetBackfillPreviewParams!) {
  assetBackfillPreview(params: $params) { partitions { ranges { start end } } }
}
"""
LAUNCH = """
mutation TidemillLaunch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId status } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""
FIND = """
query TidemillFind($filter: RunsFilter!) {
  runsOrError(filter: $filter) {
    __typename
    ... on Runs { results { runId status creationTime } }
    ... on Error { message }
  }
}
"""
STATUS = """
query TidemillStatus($id: ID!) {
  runOrError(runId: $id) {
    __typename
    ... on Run { runId status creationTime }
    ... on Error { message }
  }
}
"""
EVENTS = """
query TidemillEvents($id: ID!, $after: String) {
  runOrError(runId: $id) {
    __typename
    ... on Error { message }
    ... on Run {
      eventConnection(afterCursor: $after) {
        cursor hasMore
        events {
          __typename
          ... on ExecutionStepFailureEvent {
            stepKey
            error { message }
            failureMetadata {
              description metadataEntries { label ... on TextMetadataEntry { text } }
            }
          }
          ... on RunFailureEvent { message error { message } }
          ... on RunCanceledEvent { message error { message } }
          ... on MaterializationEvent {
            assetKey { path } partition
            metadataEntries {
              label
              ... on TextMetadataEntry { text } ... on IntMetadataEntry { intValue }
              ... on FloatMetadataEntry { floatValue } ... on BoolMetadataEntry { boolValue }
              ... on UrlMetadataEntry { url }
            }
          }
        }
      }
    }
  }
}
"""
TERMINATE = """
mutation TidemillTerminate($id: String!, $policy: TerminateRunPolicy!) {
  terminateRun(runId: $id, terminatePolicy: $policy) {
    __typename
    ... on TerminateRunFailure { message }
    ... on Error { message }
  }
}
"""
LATEST = """
query TidemillLatest($key: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $key) {
    __typename
    ... on AssetNode { assetMaterializations(partitions: $partitions, limit: 1) {
      timestamp runId partition } }
  }
}
"""
JOB = "__ASSET_JOB"
UNREACHABLE = "DagsterUserCodeUnreachableError"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"


def asset_keys(assets: Sequence[str]) -> list[dict[str, list[str]]]:
    """Assets as Dagster's input has them."""
    return [{"path": asset.split("/")} for asset in assets]


def launch_params(
    repository: Mapping[str, Any],
    assets: Sequence[str],
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """One run of these assets, all checks of theirs included."""
    return {
        "selector": {
            "repositoryLocationName": repository["location"]["name"],
            "repositoryName": repository["name"],
            "pipelineName": JOB,
            "assetSelection": asset_keys(assets),
            "assetCheckSelection": None,
        },
        "mode": "default",
        "runConfigData": run_config,
        "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
    }


def run_of(told: Mapping[str, Any]) -> Run:
    """A run, as any of the documents above tells of it."""
    created = told.get("creationTime")
    return Run(str(told["runId"]), RunStatus.of(str(told["status"])), float(created or 0))


def why(told: Mapping[str, Any]) -> str:
    """Why an answer is none of those hoped for."""
    errors = [str(error["message"]) for error in told.get("errors") or ()]
    return "; ".join(errors) or str(told.get("message") or told.get("__typename"))


def faults_of(events: Sequence[Mapping[str, Any]]) -> list[Fault]:
    """The errors of a run: what its steps failed of, or else what the run itself did."""
    steps = [e for e in events if e["__typename"] == "ExecutionStepFailureEvent"]
    if steps:
        return [_step_fault(event) for event in steps]
    ends = ("RunFailureEvent", "RunCanceledEvent")
    return [Fault(None, _text(event)) for event in events if event["__typename"] in ends]


def _step_fault(event: Mapping[str, Any]) -> Fault:
    metadata = event.get("failureMetadata")
    if not metadata:
        return Fault(None, f"Step {event.get('stepKey')}: {_text(event)}")
    name = metadata_texts(metadata["metadataEntries"]).get("error")
    return Fault(name, str(metadata.get("description") or _text(event)))


def _text(event: Mapping[str, Any]) -> str:
    return str((event.get("error") or {}).get("message") or event.get("message") or "no message")


def materialized(events: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What a run materialized, by asset: the partition of each, and what its metadata holds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["__typename"] == "MaterializationEvent" and event.get("assetKey"):
            held = {"partition": event.get("partition"), **metadata_texts(event["metadataEntries"])}
            found.setdefault("/".join(event["assetKey"]["path"]), []).append(held)
    return found


def unloaded(workspace: Mapping[str, Any]) -> list[str]:
    """The code locations that are not there now: broken, or being loaded."""
    return [
        str(entry["name"])
        for entry in workspace.get("locationEntries") or ()
        if entry["loadStatus"] != "LOADED"
        or (entry["locationOrLoadError"] or {}).get("__typename") != "RepositoryLocation"
    ]


def ends_of(preview: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """First and last key of what Dagster makes of the keys asked for; the same, if they are right.

    One pair for each asset that is partitioned; none where a key is no partition's.
    """
    spans = [(asset.get("partitions") or {}).get("ranges") or () for asset in preview]
    return {(str(span[0]["start"]), str(span[-1]["end"])) for span in spans if span}
