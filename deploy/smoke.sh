#!/usr/bin/env bash
# Is a deployment that was just made answering? `make smoke URL=https://...` ; exit 1 and a reason if not.
# Asks as a caller does: liveness, readiness, and one short answer from a model.
set -euo pipefail
url="${1:?the address, such as https://staging.knowalledge.example}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
fail() { echo "smoke: $*"; [ -s "$work/body" ] && head -c 500 "$work/body"; echo; exit 1; }
ask() { curl -sS --max-time 60 --retry 3 --retry-connrefused --retry-delay 2 -D "$work/head" -o "$work/body" -w '%{http_code}' "$@"; }

[ "$(ask "$url/api/health")" = 200 ] || fail "/api/health does not answer 200"
[ "$(ask "$url/api/ready")" = 200 ] || fail "/api/ready does not answer 200"
[ "$(ask "$url/api/v1/generate" -H 'Content-Type: application/json' ${SMOKE_AUTHORIZATION:+-H "Authorization: $SMOKE_AUTHORIZATION"} \
  -d '{"prompt": "Answer with the word ready.", "max_output_tokens": 16}')" = 200 ] || fail "no answer from the model"
grep -qi '^x-request-id:' "$work/head" || fail "the answer carries no request id: is it the gateway's?"
echo "smoke: $url answers"
