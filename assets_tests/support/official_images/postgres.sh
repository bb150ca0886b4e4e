#!/bin/bash
# What the entry point of the official PostgreSQL image does, as its user: an empty folder becomes a
# cluster, which the scripts of /docker-entrypoint-initdb.d find at a socket alone; then it serves.
set -euo pipefail
export PGUSER="${POSTGRES_USER:-postgres}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    read -ra more <<<"${POSTGRES_INITDB_ARGS:-}"
    initdb --pgdata="$PGDATA" --username="$PGUSER" --pwfile="$POSTGRES_PASSWORD_FILE" "${more[@]}"
    printf "\nlisten_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
    printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
    for script in /docker-entrypoint-initdb.d/*.sh; do
        # shellcheck source=/dev/null
        if [ -x "$script" ]; then "$script"; else . "$script"; fi
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
unset PGUSER
exec "$@"
