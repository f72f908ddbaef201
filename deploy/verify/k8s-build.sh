#!/usr/bin/env bash
# A Kubernetes control plane where no release can be downloaded: compiled from Debian's source package, once (minutes).
# Leaves kube-apiserver, kube-controller-manager and kube-scheduler 1.20 in $KNOWALLEDGE_K8S/bin. Needs root and apt.
set -euo pipefail
home="${KNOWALLEDGE_K8S:-/var/tmp/knowalledge-k8s}"
mkdir -p "$home/bin" "$home/src"
[ -x "$home/bin/kube-scheduler" ] && exit 0
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "k8s-build: neither root with apt nor a control plane in $home/bin"; exit 3; }

apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install golang-1.19-go etcd-server rsync make dpkg-dev >/dev/null
# A list of its own for sources: the machine's stays as it is.
mirror="$(apt-get indextargets --format "\$(SITE)" | grep -m1 debian)"
mkdir -p "$home/apt/lists/partial" "$home/apt/cache/archives/partial"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror%/} bookworm main" >"$home/apt/sources.list"
options=(-o "Dir::Etc::sourcelist=$home/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$home/apt/lists" -o "Dir::Cache=$home/apt/cache" -o APT::Sandbox::User=root)
apt-get -qq "${options[@]}" update
cd "$home/src"
# The binaries say that they are 1.20.2, so the sources must be.
found="$(apt-cache "${options[@]}" showsrc kubernetes | sed -n 's/^Version: //p' | head -1)"
[[ "$found" == *1.20.2-* ]] || { echo "k8s-build: Debian's sources are of Kubernetes $found, and 1.20.2 is wanted"; exit 3; }
apt-get -qq "${options[@]}" source --download-only "kubernetes=$found"
mkdir -p gp/src/k8s.io/kubernetes
tar xzf kubernetes_*.orig.tar.gz -C gp/src/k8s.io/kubernetes --strip-components=1
cd gp/src/k8s.io/kubernetes
# Niced: whoever else works on this machine goes first.
PATH="/usr/lib/go-1.19/bin:$PATH" GO111MODULE=off GOPATH="$home/src/gp" GOPROXY=off GOFLAGS="" CGO_ENABLED=0 \
  KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=clean \
  nice -n 15 make WHAT="cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler" >"$home/build.log" 2>&1 || { tail -20 "$home/build.log"; exit 3; }
cp _output/bin/kube-apiserver _output/bin/kube-controller-manager _output/bin/kube-scheduler "$home/bin/"
rm -rf "$home/src"
