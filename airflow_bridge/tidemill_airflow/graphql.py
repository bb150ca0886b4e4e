"""What is asked of Dagster, word for word, and how its answers are read. All input is variables."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill_airflow.runs import Run, RunError, RunStatus, metadata_values

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
BACKFILL_PREVIEW = """
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
FIND_RUNS = """
query TidemillFind($filter: RunsFilter!) {
  runsOrError(filter: $filter) {
    __typename
    ... on Runs { results { runId status creationTime } }
    ... on Error { message }
  }
}
"""
RUN_STATUS = """
query TidemillStatus($id: ID!) {
  runOrError(runId: $id) {
    __typename
    ... on Run { runId status creationTime }
    ... on Error { message }
  }
}
"""
RUN_EVENTS = """
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
LATEST_MATERIALIZATION = """
query TidemillLatest($key: AssetKeyInput!, $partitions: [String!]) {
  assetNodeOrError(assetKey: $key) {
    __typename
    ... on AssetNode { assetMaterializations(partitions: $partitions, limit: 1) {
      timestamp runId partition } }
  }
}
"""
ASSET_JOB = "__ASSET_JOB"
USER_CODE_UNREACHABLE = "DagsterUserCodeUnreachableError"
RANGE_START_TAG, RANGE_END_TAG = (
    "dagster/asset_partition_range_start",
    "dagster/asset_partition_range_end",
)
PARTITION_TAG = "dagster/partition"


def asset_key_inputs(assets: Sequence[str]) -> list[dict[str, list[str]]]:
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
            "pipelineName": ASSET_JOB,
            "assetSelection": asset_key_inputs(assets),
            "assetCheckSelection": None,
        },
        "mode": "default",
        "runConfigData": run_config,
        "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
    }


def parse_run(node: Mapping[str, Any]) -> Run:
    """A run, as any of the documents above tells of it."""
    created_at = node.get("creationTime")
    return Run(str(node["runId"]), RunStatus.from_name(str(node["status"])), float(created_at or 0))


def error_message(payload: Mapping[str, Any]) -> str:
    """Why an answer is none of those hoped for."""
    errors = [str(error["message"]) for error in payload.get("errors") or ()]
    return "; ".join(errors) or str(payload.get("message") or payload.get("__typename"))


def parse_errors(events: Sequence[Mapping[str, Any]]) -> list[RunError]:
    """The errors of a run: what its steps failed of, or else what the run itself did."""
    step_failures = [e for e in events if e["__typename"] == "ExecutionStepFailureEvent"]
    if step_failures:
        return [_step_error(event) for event in step_failures]
    terminal_types = ("RunFailureEvent", "RunCanceledEvent")
    return [
        RunError(None, _event_message(event))
        for event in events
        if event["__typename"] in terminal_types
    ]


def _step_error(event: Mapping[str, Any]) -> RunError:
    metadata = event.get("failureMetadata")
    if not metadata:
        return RunError(None, f"Step {event.get('stepKey')}: {_event_message(event)}")
    name = metadata_values(metadata["metadataEntries"]).get("error")
    return RunError(name, str(metadata.get("description") or _event_message(event)))


def _event_message(event: Mapping[str, Any]) -> str:
    return str((event.get("error") or {}).get("message") or event.get("message") or "no message")


def materializations(events: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What a run materialized, by asset: the partition of each, and what its metadata holds."""
    by_asset: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["__typename"] == "MaterializationEvent" and event.get("assetKey"):
            entry = {
                "partition": event.get("partition"),
                **metadata_values(event["metadataEntries"]),
            }
            by_asset.setdefault("/".join(event["assetKey"]["path"]), []).append(entry)
    return by_asset


def unloaded_locations(workspace: Mapping[str, Any]) -> list[str]:
    """The code locations that are not there now: broken, or being loaded."""
    return [
        str(entry["name"])
        for entry in workspace.get("locationEntries") or ()
        if entry["loadStatus"] != "LOADED"
        or (entry["locationOrLoadError"] or {}).get("__typename") != "RepositoryLocation"
    ]


def partition_bounds(preview: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """First and last key of what Dagster makes of the keys asked for; the same, if they are right.

    One pair for each asset that is partitioned; none where a key is no partition's.
    """
    all_ranges = [(asset.get("partitions") or {}).get("ranges") or () for asset in preview]
    return {(str(ranges[0]["start"]), str(ranges[-1]["end"])) for ranges in all_ranges if ranges}
