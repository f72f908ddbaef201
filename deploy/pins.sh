#!/usr/bin/env bash
# Holds every image of others to a digest. `pins.sh check` lists those that a tag alone names, and exits 1 if there are any.
# `pins.sh write` asks the registries for the digest behind each such tag, and writes it beside the tag.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(git ls-files '*Dockerfile' 'docker-compose*.yml' 'k8s/*.yaml')
unpinned() { sed -nE 's/^(FROM|.*image:) +([a-z0-9./_-]+:[A-Za-z0-9._-]+)( .*)?$/\2/p' "${files[@]}" | sort -u; }
case "${1:?check or write}" in
check)
  left="$(unpinned)"
  [ -z "$left" ] || { echo "pins: no digest for $(xargs <<<"$left"); make pins writes them"; exit 1; }
  ;;
write)
  for image in $(unpinned); do
    digest="$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")"
    [[ "$digest" =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "pins: the registry has no digest for $image, but: $digest"; exit 1; }
    sed -Ei "s#^(FROM|.*image:) +${image//./\\.}( |\$)#\1 $image@$digest\2#" "${files[@]}"
    echo "pins: $image@$digest"
  done
  ;;
*) echo "pins: $1 is neither check nor write"; exit 2 ;;
esac
