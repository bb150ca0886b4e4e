"""The GraphQL documents and the parsing of responses. All input is passed as variables."""

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
    """Asset keys in the form of Dagster's input type."""
    return [{"path": asset.split("/")} for asset in assets]


def launch_params(
    repository: Mapping[str, Any],
    assets: Sequence[str],
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """The parameters of one run of these assets, including all their checks."""
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


def terminate_variables(run_id: str, *, force: bool = False) -> dict[str, str]:
    """The variables of `TERMINATE`."""
    policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
    return {"id": run_id, "policy": policy}


def latest_variables(asset: str, partition: str | None) -> dict[str, Any]:
    """The variables of `LATEST_MATERIALIZATION`."""
    (key,) = asset_key_inputs([asset])
    return {"key": key, "partitions": [partition] if partition else None}


def parse_run(node: Mapping[str, Any]) -> Run:
    """A run from its node in any of the responses."""
    created_at = node.get("creationTime")
    return Run(str(node["runId"]), RunStatus.from_name(str(node["status"])), float(created_at or 0))


def error_message(payload: Mapping[str, Any]) -> str:
    """The error message of a response that is not a success."""
    errors = [str(error["message"]) for error in payload.get("errors") or ()]
    return "; ".join(errors) or str(payload.get("message") or payload.get("__typename"))


def parse_errors(events: Sequence[Mapping[str, Any]]) -> list[RunError]:
    """The errors of a run: those of its failed steps, or else those of the run itself."""
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
    """The materializations of a run by asset: the partition and the metadata of each."""
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
    """The code locations that are not available now: broken, or still loading."""
    return [
        str(entry["name"])
        for entry in workspace.get("locationEntries") or ()
        if entry["loadStatus"] != "LOADED"
        or (entry["locationOrLoadError"] or {}).get("__typename") != "RepositoryLocation"
    ]


def partition_bounds(preview: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """First and last key of the partitions that Dagster resolves from the requested keys.

    One pair per partitioned asset, none if a key is not a valid partition. Valid keys resolve to
    themselves.
    """
    all_ranges = [(asset.get("partitions") or {}).get("ranges") or () for asset in preview]
    return {(str(ranges[0]["start"]), str(ranges[-1]["end"])) for ranges in all_ranges if ranges}
