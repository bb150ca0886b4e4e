#!/bin/sh
# Unpacks the Docker Engine of Debian 13 into a folder, next to the system's packages: Debian 12's own engine
# is older than compose.yaml needs (`start_interval`). Run as root, on Debian, with docker.io installed.
set -eu
folder=$1
[ ! -e "$folder/usr/sbin/dockerd" ] || exit 0
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$folder"
# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016 # a format of apt, not of the shell
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $codename" 'Created-By: Packages' | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/trixie.list"
: >"$apt/status"
from_trixie() {
    apt-get -qq -o Dir::Etc::sourcelist="$apt/trixie.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status" \
        -o Dir::Cache::archives="$apt/archives" -o APT::Sandbox::User=root "$@"
}
from_trixie update
(cd "$apt" && from_trixie download docker.io docker-cli docker-buildx)
for package in "$apt"/*.deb; do
    dpkg -x "$package" "$folder"
done
