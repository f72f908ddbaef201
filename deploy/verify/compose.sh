#!/usr/bin/env bash
# `make verify-compose`: brings docker-compose.yml up with the demo's provider, breaks it, and says what held.
# Exit 0 all held, 1 something did not, 3 nothing could be tried. Images that cannot be had are left out, by name.
set -euo pipefail
cd "$(dirname "$0")/../.."
engine="$(deploy/verify/engine.sh up)" || { echo "verify-compose: NOT VERIFIED, there is no container engine here"; exit 3; }
eval "$engine"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
export COMPOSE_PROJECT_NAME=knowalledge-verify KNOWALLEDGE_NET=172.29.78 KNOWALLEDGE_GATEWAY=./deploy/config/demo.yaml
export KNOWALLEDGE_PORT KNOWALLEDGE_TLS_PORT PROMETHEUS_PORT ALERTMANAGER_PORT GRAFANA_PORT JAEGER_PORT
KNOWALLEDGE_PORT=$(port); KNOWALLEDGE_TLS_PORT=$(port); PROMETHEUS_PORT=$(port); ALERTMANAGER_PORT=$(port); GRAFANA_PORT=$(port); JAEGER_PORT=$(port)
export KNOWALLEDGE_TRACING_ENDPOINT=http://jaeger:4318 KNOWALLEDGE_TRACING_SAMPLE=0   # a caller's own flag is honoured
export COMPOSE_FILE="${COMPOSE_FILE:-docker-compose.yml}:docker-compose.tls.yml"
compose() { docker compose --profile demo --profile traces "$@"; }
gateway="http://127.0.0.1:$KNOWALLEDGE_PORT"
failed=0
work="$(mktemp -d)"
clean() { [ -n "${KEEP:-}" ] || compose down --volumes --timeout 5 >/dev/null 2>&1 || true; rm -rf "$work"; }
trap clean EXIT

held() { printf '  %-64s %s\n' "$1" "$2"; }
check() { if test "$2" "$3" "$4"; then held "$1" "$2"; else printf '  %-64s %s (wanted %s %s)   <-- FAILED\n' "$1" "$2" "$3" "$4"; failed=1; fi; }
now() { date +%s%3N; }
status() { curl -s -o /dev/null -w '%{http_code}' "$@" || true; }
query() { curl -sf "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" --data-urlencode "query=$1" | python3 -c 'import json, sys; r = json.load(sys.stdin)["data"]["result"]; print(r[0]["value"][1] if r else "")'; }
until_is() { for _ in $(seq "$3"); do [ "$(eval "$1")" = "$2" ] && break; sleep 0.5; done; eval "$1"; }

compose config -q && held "docker compose config" valid
[ -n "${KNOWALLEDGE_IMAGE:-}" ] || deploy/build.sh   # an image that is there is tried as it is
services=()
for service in $(compose config --services); do
  image="$(compose config --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["services"][sys.argv[1]]["image"])' "$service")"
  if docker image inspect "$image" >/dev/null 2>&1 || { [ -z "${KNOWALLEDGE_LOCAL_ENGINE:-}" ] && docker pull -q "$image" >/dev/null; }; then services+=("$service")
  else held "$service" "NOT VERIFIED, its image $image cannot be had here"; fi
  # Debian has neither: deploy/verify/panels.py and traces.py
  case "$service:${KNOWALLEDGE_LOCAL_ENGINE:-}" in grafana:1 | jaeger:1) held "$service" "NOT VERIFIED, a program of ours stands in" ;; esac
done
began=$(now)
compose up -d --wait --no-build "${services[@]}" >"$work/up" 2>&1 || { grep -iE "error|unhealthy|exited|no health" "$work/up"; compose ps -a; compose logs --tail 5; exit 1; }
held "up and healthy, seconds: ${#services[@]} services" "$(( ($(now) - began) / 1000 ))"

check "an answer through nginx, status" "$(status "$gateway/api/v1/generate" -d '{"prompt": "hello"}')" = 200
check "the same over TLS" "$(status -k "https://127.0.0.1:$KNOWALLEDGE_TLS_PORT/api/v1/generate" -d '{"prompt": "hello"}')" = 200
check "metrics from outside, status" "$(status "$gateway/metrics")" = 404
curl -sN "$gateway/api/v1/generate" -d '{"prompt": "s", "stream": true}' >"$work/stream"
check "a stream ends with done" "$(grep -c 'event: done' "$work/stream")" = 1

# A trace: the caller's flag, through nginx, by OTLP over HTTP into the store.
trace=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
curl -s -o /dev/null "$gateway/api/v1/generate" -H "traceparent: 00-$trace-00f067aa0ba902b7-01" -d '{"prompt": "trace me", "cache": "bypass"}'
spans() { curl -sf "http://127.0.0.1:$JAEGER_PORT/api/traces/$trace" | python3 -c 'import json, sys
spans = json.load(sys.stdin)["data"][0]["spans"]
root = next(it for it in spans if it["operationName"].startswith("POST "))
assert all(it is root or it["references"][0]["spanID"] == root["spanID"] for it in spans)
print(*sorted(it["operationName"] for it in spans))' 2>/dev/null; }
check "spans of a traced request, below one root" "$(until_is spans "POST /api/v1/generate provider queue settle" 20)" = "POST /api/v1/generate provider queue settle"

# The CDN layer: kept, taken back by tag, closed to the world.
topic="$gateway/api/v1/topics/verification"
layer() { curl -si --max-time 60 "$topic" | tr -d '\r' | sed -n 's/^X-Cache: //p'; }
check "a topic asked for the first time" "$(layer)" = MISS
check "and again, by Varnish" "$(layer)" = HIT
check "taken back in every layer by tag: the CDN" "$(compose exec -T backend-1 python -c 'import http.client as h, json; c = h.HTTPConnection("127.0.0.1", 8080); c.request("POST", "/api/cache/invalidate", json.dumps({"tag": "topic:verification"})); print(json.load(c.getresponse())["cdn"])')" = purged
check "and asked again" "$(layer)" = MISS
check "a purge from outside, status" "$(status -X PURGE "$topic")" = 405
compose stop -t 1 varnish >/dev/null 2>&1
check "a topic without the CDN layer, status" "$(status --max-time 60 "$topic")" = 200
compose start varnish >/dev/null 2>&1

# One quota for three: 60 requests at once, all counted in one ledger, whichever replica took them.
before=$(curl -sf "$gateway/api/quota/stats" | python3 -c 'import json, sys; print(json.load(sys.stdin)["targets"]["simulated"]["windows"][0]["used"])')
for _ in $(seq 60); do curl -s -o /dev/null "$gateway/api/v1/generate" -d '{"prompt": "count me", "cache": "bypass"}' & done; wait
for n in 1 2 3; do
  used=$(compose exec -T "backend-$n" python -c 'import json, urllib.request as r; print(json.load(r.urlopen("http://127.0.0.1:8080/api/quota/stats"))["targets"]["simulated"]["windows"][0]["used"])')
  check "requests that backend-$n sees charged to the shared quota" "$(( used - before ))" -ge 60
done

# A replica dies under load, without the demo's visitors in the quota: every request is answered.
compose stop -t 1 visitors >/dev/null 2>&1
code() { curl -s -o /dev/null -w '%{http_code}\n' "$@" || true; }   # one write a line: eight append to one file
ask() { for n in $(seq 20); do code "$gateway/api/v1/generate" -d "{\"prompt\": \"$1 $n\"}"; code "$gateway/api/quota/stats"; done; }
for n in $(seq 8); do ask "$n" >>"$work/codes" & done
sleep 0.5; compose kill -s KILL backend-2 >/dev/null 2>&1
wait
check "requests while backend-2 was killed" "$(wc -l <"$work/codes")" = 320
check "of them failed" "$(grep -vc '^200$' "$work/codes" || true)" = 0
grep -v '^200$' "$work/codes" | sort | uniq -c || true
compose up -d --no-build --wait backend-2 >/dev/null 2>&1 && held "backend-2 again" healthy

compose exec -T backend-1 python -c 'import os, signal; os.kill(1, signal.SIGTERM)'
sleep 3
check "a backend that ends by itself is started again" "$(until_is "compose ps --format '{{.Health}}' backend-1" healthy 60)" = healthy

# Redis away and back.
compose stop -t 2 redis >/dev/null 2>&1
check "an answer without Redis, status" "$(status --max-time 20 "$gateway/api/v1/generate" -d '{"prompt": "alone"}')" = 200
check "Prometheus knows that Redis is down" "$(until_is 'query "max(redis_up) or vector(0)"' 0 60)" = 0
compose start redis >/dev/null 2>&1
check "Prometheus knows that Redis is back" "$(until_is 'query "max(redis_up) or vector(0)"' 1 60)" = 1
check "an answer with Redis again, status" "$(until_is "status --max-time 20 '$gateway/api/v1/generate' -d '{\"prompt\": \"again\"}'" 200 40)" = 200

check "targets that Prometheus scrapes" "$(until_is 'query "count(up==1)"' 5 40)" = 5
check "requests counted in Prometheus, over 60" "$(query 'sum(knowalledge_requests_total) > bool 60')" = 1
# The visitors again, until every panel has something to show.
compose up -d --no-build visitors >/dev/null 2>&1
for _ in $(seq 30); do python3 deploy/verify/dashboards.py "http://127.0.0.1:$PROMETHEUS_PORT" >"$work/panels" && break; sleep 3; done
check "queries of dashboards that answer nothing" "$(sed -n 's/.* queries, \([0-9]*\) without.*/\1/p' "$work/panels")" = 0
grep EMPTY "$work/panels" || true
grafana="http://127.0.0.1:$GRAFANA_PORT"
check "Grafana, or what stands in for it, status" "$(status "$grafana/api/health")" = 200
if [ -n "${KNOWALLEDGE_LOCAL_ENGINE:-}" ]; then
  curl -sf --max-time 60 "$grafana/" >"$work/page"
  check "panels drawn from the provisioned files, over 12" "$(grep -o '<svg' "$work/page" | wc -l)" -gt 12
  check "panels drawn with nothing in them" "$(grep -o '<b>nothing' "$work/page" | wc -l)" = 0
fi
check "alerts that fire on a healthy stack" "$(curl -sf "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/alerts" | python3 -c 'import json, sys; print(len([a for a in json.load(sys.stdin)["data"]["alerts"] if a["state"] == "firing"]))')" = 0
[ $failed = 0 ] && echo "verify-compose: all held" || { compose logs --tail 20 | grep -v visitors | tail -40; echo "verify-compose: FAILED"; }
exit $failed
