#!/usr/bin/env bash
# Pushes an image of this machine, named by its ID so that it is the one that was tried and scanned, and prints the digest that
# the registry has for it: `make push ID=sha256:... IMAGE=ghcr.io/OWNER/knowalledge:TAG`
set -euo pipefail
id="${1:?the ID of an image}"; image="${2:?where to push it, with a tag}"
docker tag "$id" "$image"
docker push --quiet "$image" >&2
docker image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | sed -n "s|^${image%:*}@||p" | grep .
