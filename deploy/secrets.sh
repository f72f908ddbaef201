#!/usr/bin/env bash
# Makes the secrets of docker-compose.yml that do not exist yet, and renews the certificate that it made: `make secrets`.
# It never changes any other that exists.
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
# A self-signed certificate for localhost is ours: renewed a week before it expires. Any other belongs to somebody.
self_signed() { [ "$(openssl x509 -in tls_cert -noout -subject -issuer -nameopt RFC2253 | cut -d= -f2-)" = $'CN=localhost\nCN=localhost' ]; }
if ! command -v openssl >/dev/null; then echo "secrets/tls_cert: not looked at, openssl is not installed"
elif [ -e tls_cert ] && openssl x509 -in tls_cert -noout -checkend $((7 * 86400)) >/dev/null; then :
elif [ -e tls_cert ] && ! self_signed; then echo "secrets/tls_cert: expires within a week; it is not ours, so it stays: put a new one there"
else
  renewed=""; [ ! -e tls_cert ] || renewed=" again; if nginx runs: docker compose restart nginx"
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout tls_key -out tls_cert 2>/dev/null
  chmod 644 tls_cert tls_key
  echo "secrets/tls_cert, secrets/tls_key: made, self-signed$renewed"
fi
