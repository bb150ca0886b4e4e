#!/usr/bin/env bash
# Makes the databases of Dagster, Airflow and MLflow: each with a user of its own that no other
# database lets in. Run once as superuser on an empty cluster: by the official image from
# /docker-entrypoint-initdb.d/, and by `tidemill up --postgres`. A password is the content of
# ${SECRETS:-/run/secrets}/postgres_NAME.
set -euo pipefail
export SECRETS="${SECRETS:-/run/secrets}"
sql=(psql --no-psqlrc --quiet --no-password -v ON_ERROR_STOP=1
    --username "${POSTGRES_USER:-postgres}" --dbname postgres)
for name in dagster airflow mlflow; do
    test -s "$SECRETS/postgres_$name" || { echo "No password in $SECRETS/postgres_$name." >&2; exit 1; }
    # psql itself reads the password, so that no list of processes shows it.
    "${sql[@]}" -v name="$name" <<'SQL'
\set password `cat "$SECRETS"/postgres_:name`
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
"${sql[@]}" -c 'REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC'
