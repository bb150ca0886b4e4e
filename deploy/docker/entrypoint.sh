#!/bin/sh
# For each variable X_FILE that names a secret, X becomes that file's content; then the command runs.
set -eu
names=$(env | sed -n 's|^\([A-Za-z_][A-Za-z0-9_]*\)_FILE=/run/secrets/.*|\1|p')
for name in $names; do
    file=$(printenv "${name}_FILE")
    if ! value=$(cat "$file"); then
        echo "There is no secret $file: deploy/generate-secrets.sh draws those that are missing." >&2
        exit 1
    fi
    export "$name=$value"
    unset "${name}_FILE" # tidemill knows its settings by name, and this is none
done
exec "$@"
