#!/usr/bin/env bash
# `make verify-k8s`: the production overlay on a real API server, scheduler, controllers and autoscaler (1.20, compiled once from
# Debian's sources: deploy/verify/k8s-build.sh). Nodes and pods are simulated: deploy/verify/k8s_nodes.py. Exit 3: not tried.
set -euo pipefail
cd "$(dirname "$0")/../.."
deploy/verify/k8s-build.sh || { echo "verify-k8s: NOT VERIFIED, no control plane can be had here"; exit 3; }
bin="${KNOWALLEDGE_K8S:-/var/tmp/knowalledge-k8s}/bin"
work="$(mktemp -d)"
started=()
clean() { for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$work"; }
trap clean EXIT
failed=0
held() { printf '  %-64s %s\n' "$1" "$2"; }
check() { if test "$2" "$3" "$4"; then held "$1" "$2"; else printf '  %-64s %s (wanted %s %s)   <-- FAILED\n' "$1" "$2" "$3" "$4"; failed=1; fi; }
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start() { local log="$1"; shift; "$@" >"$work/$log.log" 2>&1 & started+=($!); }
until_is() { local found=""; for _ in $(seq "$3"); do found="$(eval "$1" 2>/dev/null || true)"; [ "$found" = "$2" ] && break; sleep 0.5; done; echo "$found"; }

etcd=$(port); peer=$(port); secure=$(port); metrics=$(port); server="https://127.0.0.1:$secure"
openssl genrsa -out "$work/sa.key" 2048 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout "$work/m.key" -out "$work/m.crt" 2>/dev/null
echo "tok,admin,1,system:masters" >"$work/tokens.csv"
echo 900 >"$work/load"
start etcd etcd --data-dir "$work/etcd" --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
  --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer"
start apiserver "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
  --secure-port="$secure" --insecure-port=0 --cert-dir="$work/certs" --service-cluster-ip-range=10.96.0.0/16 --token-auth-file="$work/tokens.csv" \
  --authorization-mode=RBAC --service-account-key-file="$work/sa.key" --service-account-signing-key-file="$work/sa.key" \
  --service-account-issuer=https://kubernetes.default.svc
cat >"$work/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "$server", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: tok}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: knowalledge}}]
current-context: x
YAML
export KUBECONFIG="$work/kubeconfig"
[ "$(until_is 'kubectl get --raw /readyz' ok 120)" = ok ] || { tail -5 "$work/apiserver.log"; echo "the API server did not start"; exit 3; }
start controllers "$bin/kube-controller-manager" --kubeconfig="$work/kubeconfig" --service-account-private-key-file="$work/sa.key" --leader-elect=false \
  --horizontal-pod-autoscaler-sync-period=2s --horizontal-pod-autoscaler-initial-readiness-delay=0s --horizontal-pod-autoscaler-cpu-initialization-period=0s \
  --port=0 --secure-port=0
start scheduler "$bin/kube-scheduler" --kubeconfig="$work/kubeconfig" --leader-elect=false --port=0 --secure-port=0
start nodes python3 deploy/verify/k8s_nodes.py "$server" tok "$metrics" "$work/m.crt" "$work/m.key" "$work/load"
kubectl apply --validate=false -f - >/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: {name: metrics, namespace: kube-system}
spec: {type: ExternalName, externalName: localhost, ports: [{port: $metrics}]}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec: {group: metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {name: metrics, namespace: kube-system, port: $metrics}}
YAML

# 1.20 knows two of our kinds by older versions, has no `sleep` for preStop, and none of the operators' kinds. And ten minutes
# of calm before a pod goes are more than a test has.
kubectl kustomize k8s/overlays/production >"$work/production.yaml"
cat >"$work/older.py" <<'PYTHON'
import sys, yaml
older = {"autoscaling/v2": "autoscaling/v2beta2", "policy/v1": "policy/v1beta1"}
out = []
for it in yaml.safe_load_all(open(sys.argv[1])):
    if it["apiVersion"].split("/")[0] in ("monitoring.coreos.com", "external-secrets.io", "gateway.networking.k8s.io", "gateway.envoyproxy.io"):
        continue
    it["apiVersion"] = older.get(it["apiVersion"], it["apiVersion"])
    if it["kind"] == "HorizontalPodAutoscaler":
        it["spec"]["metrics"] = [m for m in it["spec"]["metrics"] if m["type"] == "Resource"]
        it["spec"]["behavior"]["scaleUp"] |= {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 4}]}
        it["spec"]["behavior"]["scaleDown"] |= {"stabilizationWindowSeconds": 6, "policies": [{"type": "Pods", "value": 3, "periodSeconds": 4}]}
    if it["kind"] == "Deployment":
        it["spec"]["progressDeadlineSeconds"] = 20
        container = it["spec"]["template"]["spec"]["containers"][0]
        container["lifecycle"]["preStop"] = {"exec": {"command": ["sleep", "15"]}}
    out.append(it)
yaml.safe_dump_all(out, sys.stdout)
PYTHON
python="$PWD/.venv/bin/python"
"$python" "$work/older.py" "$work/production.yaml" >"$work/older.yaml"
kubectl create namespace knowalledge >/dev/null
kubectl create secret generic knowalledge --from-literal=redis_url=x --from-literal=google_api_key=x --from-literal=redis_auth=x --from-literal=redis_password_map=x >/dev/null
kubectl apply --validate=false -f "$work/older.yaml" >"$work/applied" 2>"$work/refused" || true
check "objects that the API server took" "$(grep -c . "$work/applied")" -ge 14
grep -v Warning "$work/refused" || true
check "objects that it refused" "$(grep -vc Warning "$work/refused" || true)" = 0
bad="$(sed 's/containerPort: 8080/containerPort: 500000/' "$work/older.yaml" | kubectl apply --validate=false -f - 2>&1 | grep -c 'must be between 1 and 65535' || true)"
check "a port that cannot be is refused: the server looks" "$bad" -ge 1

ready() { kubectl get deployment gateway -o 'jsonpath={.status.readyReplicas}'; }
wanted() { kubectl get deployment gateway -o 'jsonpath={.spec.replicas}'; }
check "ready replicas, from none" "$(until_is ready 3 120)" = 3
check "zones that they are in" "$(kubectl get pods -l app.kubernetes.io/component=gateway -o 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l)" = 3

echo 4000 >"$work/load"
check "replicas at 4 processors of load" "$(until_is wanted 10 120)" = 10
check "of them ready" "$(until_is ready 10 60)" = 10
echo 300 >"$work/load"
check "replicas when it is gone" "$(until_is wanted 3 160)" = 3
check "pods, when the others have ended" "$(until_is "kubectl get pods -l app.kubernetes.io/component=gateway --no-headers | wc -l" 3 60)" = 3

evict() { printf '{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"%s","namespace":"knowalledge"}}' "$1" >"$work/e.json"
  kubectl create --raw "/api/v1/namespaces/knowalledge/pods/$1/eviction" -f "$work/e.json" 2>&1 | grep -oE 'Success|disruption budget' | head -1; }
mapfile -t pods < <(kubectl get pods -l app.kubernetes.io/component=gateway -o 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}')
check "the first eviction of three" "$(evict "${pods[0]}")" = Success
check "the second at once" "$(evict "${pods[1]}")" = "disruption budget"
check "ready again" "$(until_is ready 3 60)" = 3

kubectl set image deployment/gateway gateway=knowalledge:next >/dev/null
least=3
for _ in $(seq 60); do
  found="$(ready)"; [ "${found:-0}" -lt $least ] && least="${found:-0}"
  [ "$(kubectl get deployment gateway -o 'jsonpath={.status.updatedReplicas}/{.status.replicas}/{.status.readyReplicas}')" = 3/3/3 ] && break
  sleep 0.3
done
check "a rolling update, replicas of the new image" "$(kubectl get pods -l app.kubernetes.io/component=gateway -o 'jsonpath={range .items[*]}{.spec.containers[0].image}{"\n"}{end}' | grep -c next)" -ge 3
check "ready replicas in the meantime, at least" "$least" = 3
kubectl rollout undo deployment/gateway >/dev/null
check "and back" "$(kubectl rollout status deployment/gateway --timeout=60s 2>&1 | grep -c 'successfully rolled out')" = 1
# From here on as docs/how-to/deploy.md has it, word by word, in a copy of this checkout. A kubectl before the real one makes what is
# applied older; the address is that of a real gateway beside the cluster.
mkdir "$work/path" "$work/copy"
cat >"$work/path/kubectl" <<SH
#!/usr/bin/env bash
args=(); file=""; apply=""
while [ \$# -gt 0 ]; do
  case "\$1" in apply) apply=1; args+=(apply) ;;
    -k) "$(command -v kubectl)" kustomize "\$2" >"$work/applied.yaml" || exit; file="$work/applied.yaml"; shift ;;
    -f) file="\$2"; shift ;;
    *) args+=("\$1") ;; esac
  shift
done
[ -n "\$apply" ] || exec "$(command -v kubectl)" "\${args[@]}" \${file:+-f "\$file"}
"$python" "$work/older.py" "\$file" | "$(command -v kubectl)" "\${args[@]}" --validate=false -f -
SH
chmod +x "$work/path/kubectl"
cp -r Makefile deploy k8s monitoring secrets docs "$work/copy"
find "$work/copy/secrets" -type f ! -name '*.example' ! -name README.md -delete
provider=$(port); serving=$(port); dead=$(port)
cat >"$work/gateway.yaml" <<YAML
models:
  m: {targets: [{name: sim, provider: gemini, base_url: "http://127.0.0.1:$provider", api_key: k, quota: {rpm: 1000}}]}
YAML
start provider .venv/bin/knowalledge provider-sim --bind "127.0.0.1:$provider"
start gateway .venv/bin/knowalledge serve --config "$work/gateway.yaml" --bind "127.0.0.1:$serving"
answers="http://127.0.0.1:$serving"; silent="http://127.0.0.1:$dead"
check "a gateway beside it, status" "$(until_is "curl -s -o /dev/null -w '%{http_code}' $answers/api/ready" 200 60)" = 200

sed -n '/^### The first time/,/^### A release/p' docs/how-to/deploy.md | sed -n '/^```/,/^```/{/^```/!p}' | sed "s|https://staging.knowalledge.example|$answers|" >"$work/first"
check "commands of The first time, over 7" "$(grep -cE '^(make|sed|kubectl)' "$work/first")" -gt 7
first=0; (cd "$work/copy" && PATH="$work/path:$PATH" YOUR_GEMINI_KEY=k bash -exuo pipefail "$work/first") >"$work/first.log" 2>&1 || first=$?
check "they end with" "$first" = 0
[ "$first" = 0 ] || tail -5 "$work/first.log"
staged() { kubectl -n knowalledge-staging get deployment gateway -o 'jsonpath={.status.readyReplicas}'; }
check "replicas in staging, ready, once the autoscaler has looked" "$(until_is staged 3 120)" = 3

digest() { printf '%s@sha256:%064d' "$1" "$2"; }
release() { local code=0; (cd "$work/copy" && PATH="$work/path:$PATH" make release OVERLAY=production IMAGE="$1" URL="$2") >"$work/release.log" 2>&1 || code=1; echo $code; }
image() { kubectl get deployment gateway -o 'jsonpath={.spec.template.spec.containers[0].image} {.status.updatedReplicas}'; }
one="$(digest ghcr.io/x/knowalledge 1)"; two="$(digest ghcr.io/x/knowalledge 2)"
check "a release that answers" "$(release "$one" "$answers")" = 0
check "and stays" "$(image)" = "$one 3"
check "a release that does not answer" "$(release "$two" "$silent")" = 1
check "is taken back" "$(until_is image "$one 3" 20)" = "$one 3"
check "a release whose pods never get ready" "$(release "$(digest never-ready 3)" "$answers")" = 1
check "is taken back" "$(until_is image "$one 3" 20)" = "$one 3"
check "the same release again, without an answer" "$(release "$one" "$silent")" = 1
check "takes nothing back" "$(grep -c 'nothing was put out' "$work/release.log"):$(image)" = "1:$one 3"
[ $failed = 0 ] && echo "verify-k8s: all held" || { tail -n 3 "$work"/*.log; echo "verify-k8s: FAILED"; }
exit $failed
