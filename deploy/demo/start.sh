#!/usr/bin/env bash
# `make demo`: says what is missing before it starts anything, takes back what a failed start left, prints the addresses.
set -euo pipefail
cd "$(dirname "$0")/../.."
export KNOWALLEDGE_GATEWAY=./deploy/config/demo.yaml
compose() { docker compose --profile demo "$@"; }
missing=0
lacks() { printf 'demo: %s\n      %s\n' "$1" "$2" >&2; missing=1; }

if ! command -v docker >/dev/null; then
  lacks "Docker is not installed" "install it (docs.docker.com/engine/install); make run needs none"
elif ! docker info >/dev/null 2>&1; then
  lacks "the Docker engine does not answer" "start it, or let your user reach it: docker info says why"
elif ! docker compose version >/dev/null 2>&1; then
  lacks "Docker's compose plugin is not installed" "install it: apt-get install docker-compose-plugin, or docs.docker.com/compose/install"
fi
# A demo that runs already holds its ports itself.
if [ $missing = 0 ] && [ -z "$(compose ps -q 2>/dev/null)" ]; then
  for port in "KNOWALLEDGE_PORT 8080" "GRAFANA_PORT 3000" "PROMETHEUS_PORT 9090" "ALERTMANAGER_PORT 9093"; do
    name=${port% *}; number=${!name:-${port#* }}
    if (exec 3<>"/dev/tcp/127.0.0.1/$number") 2>/dev/null; then
      lacks "port $number is taken" "choose another: $name=$((number + 10)) make demo"
    fi
  done
fi
[ $missing = 0 ] || exit 1

began=$(compose ps -aq)
if ! compose up -d --build --wait; then
  echo "demo: it did not start; what its services said last:" >&2
  compose logs --tail 5 --no-log-prefix >&2 || true
  if [ -z "$began" ]; then
    compose down --volumes --remove-orphans >/dev/null 2>&1 || true
    echo "demo: what had started is stopped and removed" >&2
  fi
  exit 1
fi
at() { compose port "$1" "$2"; }
cat <<TEXT

The demo runs. Its answers are simulated: no model is asked.
  gateway     http://$(at nginx 8080)    any usual model name works
  Grafana     http://$(at grafana 3000)
  Prometheus  http://$(at prometheus 9090)
  alerts      http://$(at alertmanager 9093)
Try   curl http://$(at nginx 8080)/api/v1/generate -d '{"prompt": "Why is the sky blue?"}'
Stop  make demo-down
TEXT
