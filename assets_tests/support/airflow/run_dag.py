"""Runs one DAG to completion in this process, with triggers inline, and prints the result as JSON.

Usage: `python run_dag.py DAG_ID CONF`. It is a program because Airflow reads AIRFLOW_HOME when it
is imported.
"""

import json
import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.models.xcom import XComModel
from airflow.settings import Session
from sqlalchemy import select


def main(dag_id: str, conf: str) -> None:
    bag = DagBag()
    assert not bag.import_errors, bag.import_errors
    run = bag.dags[dag_id].test(run_conf=json.loads(conf))
    assert run is not None
    with Session() as session:
        xcoms = session.scalars(select(XComModel).filter_by(dag_id=dag_id, run_id=run.run_id))
        events = session.scalars(
            select(AssetEvent).filter_by(source_dag_id=dag_id, source_run_id=run.run_id)
        )
        result = {
            "state": str(run.state),
            "run_id": run.run_id,
            "xcoms": {f"{x.task_id}/{x.key}": XComModel.deserialize_value(x) for x in xcoms},
            "events": {event.asset.uri: event.extra for event in events},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
