#!/usr/bin/env bash
# A Docker engine and base images where neither a daemon nor an image registry can be had: Debian's packages alone.
# Prints `export DOCKER_HOST=...` for the caller to eval; everything it says goes to standard error.
#   eval "$(deploy/verify/engine.sh up)"      ...      deploy/verify/engine.sh down
# The images carry the names that the Dockerfile and compose ask for, but are imitations: Debian's versions, glibc, no
# official entrypoints. They prove our own files, not the official images. Needs root, apt and about 1.5 GB of disk.
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
home="${KNOWALLEDGE_ENGINE:-/var/tmp/knowalledge-engine}"
apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends)
say() { echo "engine: $*" >&2; }

install_engine() {
  command -v dockerd >/dev/null && command -v debootstrap >/dev/null && return
  [ "$(id -u)" = 0 ] || { say "no engine, and not root: cannot install one"; exit 3; }
  say "installing docker.io, runc, containerd, iptables, debootstrap"
  apt-get -qq update >&2
  "${apt[@]}" install docker.io runc containerd iptables debootstrap >&2
}

start_engine() {
  mkdir -p "$home"
  if [ -S "$home/docker.sock" ] && DOCKER_HOST="unix://$home/docker.sock" docker version >/dev/null 2>&1; then return; fi
  cat >"$home/daemon.json" <<EOF
{"data-root": "$home/data", "exec-root": "$home/exec", "pidfile": "$home/docker.pid",
 "hosts": ["unix://$home/docker.sock"], "storage-driver": "overlay2", "bip": "172.30.255.1/24",
 "default-address-pools": [{"base": "172.31.0.0/16", "size": 24}]}
EOF
  setsid nohup dockerd --config-file "$home/daemon.json" >"$home/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    DOCKER_HOST="unix://$home/docker.sock" docker version >/dev/null 2>&1 && return
    sleep 0.2
  done
  say "dockerd did not start:"; tail -5 "$home/dockerd.log" >&2
  exit 3
}

# Compose v2 is not in bookworm; trixie's package is a static plugin.
install_compose() {
  docker compose version >/dev/null 2>&1 && return
  local plugins=/usr/libexec/docker/cli-plugins lists="$home/trixie"
  mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$plugins"
  local mirror
  mirror="$(apt-get indextargets --format '$(SITE)' | head -1)"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%/} trixie main" >"$lists/sources.list"
  local opts=(-o Dir::Etc::sourcelist="$lists/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists="$lists/lists" -o Dir::Cache="$lists/cache" -o APT::Sandbox::User=root)
  apt-get -qq "${opts[@]}" update >&2
  (cd "$lists" && apt-get -qq "${opts[@]}" download docker-compose >&2 && dpkg-deb -x docker-compose_*.deb x)
  cp "$lists/x/usr/libexec/docker/cli-plugins/docker-compose" "$plugins/"
  docker compose version >&2
}

# Whatever a machine needs to reach its package indexes: its CA bundle and its pip settings.
dress() {
  cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$1/etc/pip.conf"
}

base_images() {
  local python
  python="$(sed -n 's/^FROM \([^ @]*\).* AS base$/\1/p' "$here/../../backend/Dockerfile")"
  docker image inspect debian:bookworm-slim >/dev/null 2>&1 || {
    say "debootstrap (about 30 s)"
    rm -rf "$home/rootfs"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$home/rootfs" >"$home/debootstrap.log" 2>&1
    dress "$home/rootfs"
    tar -C "$home/rootfs" --exclude='./var/cache/apt/archives/*.deb' -c . | docker import - debian:bookworm-slim >/dev/null
  }
  docker image inspect "$python" >/dev/null 2>&1 || {
    say "$python"
    chroot "$home/rootfs" "${apt[@]}" install python3 python3-venv python3-pip >"$home/python.log" 2>&1
    ln -sf python3 "$home/rootfs/usr/bin/python"
    tar -C "$home/rootfs" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' -c . |
      docker import -c 'CMD ["python3"]' - "$python" >/dev/null
    rm -rf "$home/rootfs"
  }
}

# $1 tag, $2 packages, $3 more Dockerfile lines, $4 a program of this folder that they copy; made again when any of it changes
imitation() {
  local recipe
  recipe="$({ printf '%s|%s' "$2" "$3"; [ -z "${4:-}" ] || cat "$here/$4"; } | cksum | cut -d' ' -f1)"
  [ "$(docker image inspect -f '{{.Config.Labels.recipe}}' "$1" 2>/dev/null)" = "$recipe" ] && return
  say "$1"
  printf 'FROM debian:bookworm-slim\nLABEL recipe=%s\nRUN apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install %s >/dev/null\n%b\n' "$recipe" "$2" "$3" |
    DOCKER_BUILDKIT=0 docker build -q --network host -t "$1" -f - "$here" >/dev/null 2>"$home/build.log" || { cat "$home/build.log" >&2; exit 3; }
}

# The tags are read from compose, so the two cannot drift apart. An imitation has no digest that anybody knows.
tag() { sed -n "s|^ *image: \($1:[^ @]*\).*|\1|p" "$here/../../docker-compose.yml" | head -1; }

# Users and data folders are those of the official images: a volume takes its owner from the folder in the image.
service_images() {
  imitation "$(tag redis)" redis-server 'RUN mkdir -p /data && chown 999:1000 /data\nENTRYPOINT []\nCMD ["redis-server"]'
  imitation "$(tag nginxinc/nginx-unprivileged)" nginx-light 'USER 101\nENTRYPOINT []'
  imitation "$(tag varnish)" 'varnish varnish-modules gcc libc6-dev' 'ENTRYPOINT []'
  imitation "$(tag prom/prometheus)" prometheus 'RUN mkdir -p /prometheus && chown 65534:65534 /prometheus\nUSER nobody\nENTRYPOINT ["prometheus"]'
  imitation "$(tag prom/alertmanager)" prometheus-alertmanager 'RUN mkdir -p /alertmanager && chown 65534:65534 /alertmanager\nUSER nobody\nENTRYPOINT ["prometheus-alertmanager"]'
  imitation "$(tag quay.io/oliver006/redis_exporter)" prometheus-redis-exporter 'USER nobody\nENTRYPOINT ["prometheus-redis-exporter"]'
  # Debian has neither Grafana nor Jaeger: programs of ours that say what they are not.
  imitation "$(tag grafana/grafana)" 'python3 wget' 'COPY panels.py /panels.py\nRUN mkdir -p /var/lib/grafana && chown 472:0 /var/lib/grafana\nUSER 472\nENTRYPOINT ["python3", "/panels.py"]' panels.py
  imitation "$(tag jaegertracing/jaeger)" python3 'COPY traces.py /traces.py\nUSER 10001\nENTRYPOINT ["python3", "/traces.py"]' traces.py
}

# A file for compose that names the services' images without the digests that docker-compose.yml may pin.
without_digests() {
  awk 'BEGIN { print "services:" } /^  [a-z][a-z0-9-]*:/ { name = $1 } /^    image: .*@sha256:/ { sub(/@.*/, "", $2); print "  " name " {image: \"" $2 "\"}" }' \
    "$here/../../docker-compose.yml"
}

case "${1:-up}" in
up)
  if [ -z "${KNOWALLEDGE_LOCAL_ENGINE:-}" ] && docker info >/dev/null 2>&1; then
    say "using the engine that is already running"
    exit 0
  fi
  install_engine
  start_engine
  export DOCKER_HOST="unix://$home/docker.sock"
  install_compose
  base_images
  service_images
  without_digests >"$home/images.yml"
  files=docker-compose.yml; [ "$(wc -l <"$home/images.yml")" = 1 ] || files="$files:$home/images.yml"
  echo "export DOCKER_HOST=$DOCKER_HOST KNOWALLEDGE_LOCAL_ENGINE=1 COMPOSE_FILE=$files"
  ;;
down)
  if [ -f "$home/docker.pid" ]; then kill "$(cat "$home/docker.pid")"; else say "no engine of ours is running"; fi
  ;;
*) say "usage: engine.sh up|down"; exit 2 ;;
esac
