#!/bin/bash
# The entry point of PostgreSQL's official image, as its user: an empty folder becomes a cluster, the
# scripts of /docker-entrypoint-initdb.d run while it listens on a socket only, then it starts.
set -euo pipefail
export PGUSER="${POSTGRES_USER:-postgres}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    read -ra initdb_options <<<"${POSTGRES_INITDB_ARGS:-}"
    initdb --pgdata="$PGDATA" --username="$PGUSER" --pwfile="$POSTGRES_PASSWORD_FILE" "${initdb_options[@]}"
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
