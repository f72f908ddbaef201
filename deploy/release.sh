#!/usr/bin/env bash
# Puts an image out and takes it back if it does not answer: `make release OVERLAY=staging IMAGE=...@sha256:... URL=https://...`
# Needs kubectl, and its configuration in KUBECONFIG (a path) or KUBECONFIG_CONTENT. Exit 1: it was taken back.
set -euo pipefail
cd "$(dirname "$0")/.."
overlay="${1:?staging or production}"; image="${2:?an image with its digest}"; url="${3:?the address to ask}"
[[ "$image" == *@sha256:* ]] || { echo "release: $image names no digest; a tag may move"; exit 2; }
[ -d "k8s/overlays/$overlay" ] || { echo "release: no overlay $overlay"; exit 2; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if [ -n "${KUBECONFIG_CONTENT:-}" ]; then
  (umask 077; printf '%s\n' "$KUBECONFIG_CONTENT" >"$work/kubeconfig")
  export KUBECONFIG="$work/kubeconfig"
fi
cp -r k8s monitoring "$work/"
cat >"$work/release.py" <<'PYTHON'
import pathlib, re, sys
path, image = pathlib.Path(sys.argv[1]), sys.argv[2]
name, _, digest = image.partition("@")
text, changed = re.subn(r"\{name: knowalledge, .*\}", f"{{name: knowalledge, newName: {name}, digest: {digest}}}", path.read_text())
assert changed == 1, f"{path} names the image {changed} times"
path.write_text(text)
PYTHON
python3 "$work/release.py" "$work/k8s/overlays/$overlay/kustomization.yaml" "$image"
kubectl kustomize "$work/k8s/overlays/$overlay" >"$work/all.yaml"
namespace="$(sed -n 's/^namespace: //p' "$work/k8s/overlays/$overlay/kustomization.yaml")"
kubectl="kubectl --namespace $namespace"

# What runs now. The number of replicas is not in it: the autoscaler may move that meanwhile.
template() { $kubectl get deployment gateway -o 'jsonpath={.spec.template}' 2>/dev/null || true; }
had="$(template)"
revision="$($kubectl get deployment gateway -o 'jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}' 2>/dev/null || true)"
# The rollout waits for each old replica's streams, up to its grace of 345 s.
if $kubectl apply -f "$work/all.yaml" && $kubectl rollout status deployment/gateway --timeout=20m && deploy/smoke.sh "$url"; then
  echo "release: $image is out on $overlay"
  exit 0
fi
if [ -z "$had" ]; then echo "release: there is nothing to go back to"
# Without a new revision an undo would take back an earlier release than this one.
elif [ "$(template)" = "$had" ]; then echo "release: nothing was put out, so nothing is taken back"
else
  echo "release: taking it back"
  $kubectl rollout undo deployment/gateway --to-revision="$revision"
  $kubectl rollout status deployment/gateway --timeout=20m
fi
exit 1
