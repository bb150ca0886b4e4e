#!/bin/sh
# Generates the secrets of deploy/compose.yaml in deploy/secrets/, or in the folder given as argument;
# existing ones are kept. The files are world-readable, because the users in the containers have other
# user ids, but only the owner can enter the folder.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"

write_once() { # NAME: writes standard input to this file, unless it exists
    temp=$(mktemp "$folder/.temp.XXXXXX")
    cat >"$temp"
    chmod 444 "$temp"
    ln "$temp" "$folder/$1" 2>/dev/null && echo "generated: $1" || echo "kept:      $1"
    rm -f "$temp"
}

generate() { # COUNT: this many random bytes, in characters that need no quoting in URLs and JSON
    head -c "$1" /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_'
}

for name in postgres postgres_dagster postgres_airflow postgres_mlflow serve_token; do
    generate 24 | write_once "$name"
done
generate 48 | write_once airflow_jwt
generate 32 | write_once airflow_fernet
printf '{"admin": "%s"}\n' "$(generate 12)" | write_once airflow_admin
