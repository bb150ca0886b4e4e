#!/usr/bin/env bash
# Creates the databases of Dagster, Airflow and MLflow, each with its own user, who can connect to no
# other database. Run once as superuser on an empty cluster: by the official image from
# /docker-entrypoint-initdb.d/, and by `tidemill up --postgres`. The password of NAME is the content of
# ${SECRETS:-/run/secrets}/postgres_NAME.
set -euo pipefail
export SECRETS="${SECRETS:-/run/secrets}"
sql=(psql --no-psqlrc --quiet --no-password -v ON_ERROR_STOP=1
    --username "${POSTGRES_USER:-postgres}" --dbname postgres)
for name in dagster airflow mlflow; do
    test -s "$SECRETS/postgres_$name" || { echo "No password in $SECRETS/postgres_$name." >&2; exit 1; }
    # psql reads the password itself, so that it is not visible in the list of processes.
    "${sql[@]}" -v name="$name" <<'SQL'
\set password `cat "$SECRETS"/postgres_:name`
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
"${sql[@]}" -c 'REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC'
