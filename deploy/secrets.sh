#!/usr/bin/env bash
# Makes the secrets of docker-compose.yml that do not exist yet; never changes one that does. `make secrets`.
set -euo pipefail
cd "$(dirname "$0")/../secrets"
chmod 700 .

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
# $1 name, $2 content; readable inside the containers, whose users are not ours
write() { printf '%s\n' "$2" >"$1" && chmod 644 "$1" && echo "secrets/$1: made"; }

[ -e google_api_key ] || write google_api_key "$(cat google_api_key.example)"
[ -e grafana_admin_password ] || write grafana_admin_password "$(random)"
if [ ! -e redis_url ] || [ ! -e redis_auth ] || [ ! -e redis_password_map ]; then
  password="$(random)"
  write redis_url "redis://:$password@redis:6379/0"
  write redis_auth "requirepass $password"
  # As the exporter calls it in compose, and in a pod beside it.
  write redis_password_map "{\"redis://redis:6379\": \"$password\", \"redis://localhost:6379\": \"$password\"}"
fi
if [ ! -e tls_cert ] && command -v openssl >/dev/null; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout tls_key -out tls_cert 2>/dev/null
  chmod 644 tls_cert tls_key
  echo "secrets/tls_cert, secrets/tls_key: made, self-signed"
fi
