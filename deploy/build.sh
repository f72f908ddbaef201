#!/usr/bin/env bash
# Builds knowalledge:dev and says on which base, by digest; labels keep it: `make image`. VERSION and REVISION are labels, too.
set -euo pipefail
cd "$(dirname "$0")/.."
docker=docker   # a newer client builds through a plugin; Debian's has BuildKit inside
docker buildx version >/dev/null 2>&1 || docker=/usr/bin/docker
base="$(sed -n 's/^FROM \([^ ]*\) AS base$/\1/p' backend/Dockerfile)"
# The imitation of deploy/verify/engine.sh has the name and the tag, and no digest that anybody knows.
if [ -n "${KNOWALLEDGE_LOCAL_ENGINE:-}" ]; then base="${base%@*}" digest=none
else
  $docker pull --quiet "$base" >/dev/null
  digest="$($docker image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$base" | sed -n '1s/.*@//p')"
fi
sed "s|^FROM [^ ]* AS base$|FROM $base AS base|" backend/Dockerfile | DOCKER_BUILDKIT=1 $docker build --quiet --network host \
  --tag knowalledge:dev --build-arg "BASE_NAME=${base%@*}" --build-arg "BASE_DIGEST=$digest" ${VERSION:+--build-arg "VERSION=$VERSION"} \
  ${REVISION:+--build-arg "REVISION=$REVISION"} --file - backend >/dev/null
echo "image: knowalledge:dev on ${base%@*}, digest $digest"
