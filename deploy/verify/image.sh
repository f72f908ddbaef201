#!/usr/bin/env bash
# `make verify-image`: builds the image and holds it to what docs/how-to/deploy.md says of it. Exit 0 all held, 1 something
# did not, 3 nothing could be tried (no engine and none to be had). With a local engine the base image is an imitation.
set -euo pipefail
cd "$(dirname "$0")/../.."
engine="$(deploy/verify/engine.sh up)" || { echo "verify-image: NOT VERIFIED, there is no container engine here"; exit 3; }
eval "$engine"
docker=docker   # a newer client builds through a plugin; Debian's has BuildKit inside
docker buildx version >/dev/null 2>&1 || docker=/usr/bin/docker
image=knowalledge:dev
gateway=knowalledge-verify-gateway
provider=knowalledge-verify-provider
work="$(mktemp -d)"
failed=0
clean() { $docker rm -f "$gateway" "$provider" >/dev/null 2>&1 || true; rm -rf "$work"; }
trap clean EXIT
clean; mkdir -p "$work"

held() { printf '  %-58s %s\n' "$1" "$2"; }
broken() { printf '  %-58s %s   <-- FAILED\n' "$1" "$2"; failed=1; }
# $1 what, $2 found, $3 test operator, $4 wanted
check() { if test "$2" "$3" "$4"; then held "$1" "$2"; else broken "$1" "$2 (wanted $3 $4)"; fi; }
now() { date +%s%3N; }
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

lint=.run/tools/bin/hadolint
if [ -x $lint ]; then check "findings of hadolint" "$($lint backend/Dockerfile | wc -l)" = 0; else held hadolint "NOT VERIFIED: make deploy-tools installs it"; fi

began=$(now)
deploy/build.sh
held "built from the hash-pinned lock, seconds" "$(( ($(now) - began) / 1000 ))"
base=$($docker image inspect -f '{{.Size}}' "$($docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.base.name"}}' "$image")")
size=$($docker image inspect -f '{{.Size}}' "$image")
check "MB over the base image" $(( (size - base) / 1000000 )) -le 80
check "user" "$($docker image inspect -f '{{.Config.User}}' "$image")" = 1000:1000
inside() { $docker run --rm --read-only --network none --entrypoint sh "$image" -c "$1" 2>/dev/null || true; }
check "compilers and pip inside" "$(inside 'command -v gcc cc g++ pip pip3; python -c "import pip" && echo pip')" = ""
check "files of root that others may write" "$(inside 'find / -xdev -perm -o+w ! -type l ! -path "/tmp*" ! -path "/var/tmp*" ! -path "/run*" ! -path "/var/lock*" ! -path "/dev*" ! -path "/proc*" | head -3')" = ""

hardened=(--read-only --tmpfs /tmp:size=64m --cap-drop ALL --security-opt no-new-privileges --memory 512m --pids-limit 256 --network host)
provider_port=$(port); gateway_port=$(port); address="http://127.0.0.1:$gateway_port"
cat >"$work/gateway.yaml" <<YAML
models:
  m: {targets: [{name: sim, provider: gemini, base_url: "http://127.0.0.1:$provider_port", api_key: "\${KEY}", quota: {rpm: 1000}}]}
YAML
echo key >"$work/key"; chmod 755 "$work"; chmod 644 "$work"/*
$docker run -d --name "$provider" "${hardened[@]}" "$image" \
  provider-sim --bind "127.0.0.1:$provider_port" --token-ms 100 --output-tokens 40 >/dev/null
began=$(now)
$docker run -d --name "$gateway" "${hardened[@]}" -v "$work:/etc/knowalledge:ro" \
  -e KNOWALLEDGE_CONFIG=/etc/knowalledge/gateway.yaml -e KEY_FILE=/etc/knowalledge/key \
  --health-cmd "$($docker image inspect -f '{{json .Config.Healthcheck.Test}}' "$image" | python3 -c "import json, shlex, sys; print(shlex.join(json.load(sys.stdin)[1:]).replace('8080', '$gateway_port'))")" \
  --health-interval 1s "$image" serve --bind "127.0.0.1:$gateway_port" >/dev/null
until curl -sf "$address/api/ready" >/dev/null; do
  [ $(( $(now) - began )) -gt 20000 ] && { $docker logs "$gateway"; echo "it never got ready"; exit 1; }
  sleep 0.05
done
check "milliseconds from start to ready, read-only root" $(( $(now) - began )) -lt 3000
check "UID of process 1" "$($docker exec "$gateway" python -c 'import os; print(os.stat("/proc/1").st_uid)')" = 1000
check "effective capabilities" "$($docker exec "$gateway" sh -c 'grep CapEff /proc/1/status | cut -f2')" = 0000000000000000
check "writing to the root" "$($docker exec "$gateway" sh -c 'touch /x 2>&1 | grep -o "Read-only"')" = Read-only
for _ in $(seq 50); do [ "$($docker inspect -f '{{.State.Health.Status}}' "$gateway")" = healthy ] && break; sleep 0.2; done
check "health check" "$($docker inspect -f '{{.State.Health.Status}}' "$gateway")" = healthy
check "an answer, status" "$(curl -s -o "$work/answer" -w '%{http_code}' "$address/api/v1/generate" -d '{"prompt": "hello [[out=4]]"}')" = 200

# Twenty streams of four seconds are running when SIGTERM comes.
for i in $(seq 20); do
  curl -sN "$address/api/v1/generate" -d '{"prompt": "stream", "stream": true}' >"$work/stream.$i" &
done
for _ in $(seq 100); do [ "$(grep -l 'event: delta' "$work"/stream.* 2>/dev/null | wc -l)" = 20 ] && break; sleep 0.1; done
check "streams running at SIGTERM" "$(grep -l 'event: delta' "$work"/stream.* | wc -l)" = 20
check "of them finished before it" "$(grep -l 'event: done' "$work"/stream.* | wc -l)" -lt 20
began=$(now)
$docker stop --time 60 "$gateway" >/dev/null
took=$(( $(now) - began ))
wait
check "streams finished, not cut" "$(grep -l 'event: done' "$work"/stream.* | wc -l)" = 20
check "milliseconds from SIGTERM to the end (drain is 30 s)" "$took" -lt 30000
check "exit code" "$($docker inspect -f '{{.State.ExitCode}}' "$gateway")" = 0
check "lines on standard error" "$($docker logs "$gateway" 2>&1 >/dev/null | grep -cv '"event"' || true)" = 0
[ $failed = 0 ] && echo "verify-image: all held" || { $docker logs "$gateway" 2>&1 | tail -5; echo "verify-image: FAILED"; }
exit $failed
