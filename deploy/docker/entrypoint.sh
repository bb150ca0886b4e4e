#!/bin/sh
# For each variable X_FILE that names a secret, sets X to the content of that file; then runs the command.
set -eu
names=$(env | sed -n 's|^\([A-Za-z_][A-Za-z0-9_]*\)_FILE=/run/secrets/.*|\1|p')
for name in $names; do
    file=$(printenv "${name}_FILE")
    if ! value=$(cat "$file"); then
        echo "There is no secret $file: deploy/generate-secrets.sh generates missing ones." >&2
        exit 1
    fi
    export "$name=$value"
    unset "${name}_FILE" # X_FILE itself is not a setting of tidemill
done
exec "$@"
