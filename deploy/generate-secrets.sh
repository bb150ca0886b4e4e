#!/bin/sh
# Draws the secrets of deploy/compose.yaml into deploy/secrets/ (or the folder named); those that are
# there stay as they are. The files can be read by all, for the users in the containers are not this
# one; the folder can be entered by this one alone.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"

keep() { # what comes in, under this name, unless it is there
    draft=$(mktemp "$folder/.draft.XXXXXX")
    cat >"$draft"
    chmod 444 "$draft"
    ln "$draft" "$folder/$1" 2>/dev/null && echo "drawn: $1" || echo "kept:  $1"
    rm -f "$draft"
}

draw() { # this many random bytes, in letters that URLs and JSON take as they are
    head -c "$1" /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'
}

for name in postgres postgres_dagster postgres_airflow postgres_mlflow serve_token; do
    draw 24 | keep "$name"
done
draw 48 | keep airflow_jwt
draw 32 | keep airflow_fernet
printf '{"admin": "%s"}\n' "$(draw 12)" | keep airflow_admin
