"""`DagsterClient`: an Airflow connection, and single requests to its endpoint."""

from airflow.sdk import BaseHook

from tidemill_airflow import graphql
from tidemill_airflow.errors import BridgeError
from tidemill_airflow.hooks.endpoint import Endpoint, endpoint_from_connection
from tidemill_airflow.hooks.transport import JsonObject, Retry, aexecute, execute


class DagsterClient(BaseHook):
    """A client of one Dagster webserver, or of Dagster+.

    The connection's fields: host, port (3000), schema (http or https), password (the token), and
    extra: `path` (a prefix or a deployment) and `ui` (the URL that people use, for links).
    Every request raises `DagsterUnreachable` if no server listens, `ResponseLost` if no response
    arrives within `timeout` seconds, `DagsterRejected`, and `InvalidInput` for an invalid
    connection. `retry` applies to the methods that say so.
    """

    conn_name_attr = "dagster_conn_id"
    default_conn_name = "dagster_default"
    conn_type = "dagster"
    hook_name = "Dagster"

    def __init__(
        self,
        dagster_conn_id: str = default_conn_name,
        timeout: float = 30.0,
        retry: Retry = Retry(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.dagster_conn_id = dagster_conn_id
        self.timeout = timeout
        self.retry = retry
        self._endpoint: Endpoint | None = None

    def get_conn(self) -> Endpoint:
        """The endpoint of the connection."""
        if self._endpoint is None:
            self._endpoint = endpoint_from_connection(self.get_connection(self.dagster_conn_id))
        return self._endpoint

    async def aget_conn(self) -> Endpoint:
        """As `get_conn`, for triggers."""
        if self._endpoint is None:
            self._endpoint = endpoint_from_connection(
                await self.aget_connection(self.dagster_conn_id)
            )
        return self._endpoint

    def test_connection(self) -> tuple[bool, str]:
        """Whether Dagster responds, and its version or the error; the test button of the UI."""
        try:
            return True, f"Dagster {self.execute(graphql.VERSION)['version']} responds."
        except BridgeError as error:
            return False, str(error)

    def execute(self, document: str, **variables: object) -> JsonObject:
        """The data of a response."""
        return execute(self.get_conn(), document, variables, self.timeout)

    async def aexecute(self, document: str, **variables: object) -> JsonObject:
        """As `execute`, for triggers."""
        return await aexecute(await self.aget_conn(), document, variables, self.timeout)
