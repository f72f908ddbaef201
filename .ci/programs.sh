#!/usr/bin/env bash
# Installs the Debian programs that set-up, tests and linters run, as far as they are missing: one list for a fresh machine,
# the pipeline and the devcontainer. What cannot be had is named, and the tests that need it are skipped. Needs root.
set -euo pipefail
missing=()
# A program, and the package that brings it.
for pair in python3:python3 make:make git:git curl:curl openssl:openssl node:nodejs npm:npm nginx:nginx-light \
  varnishd:varnish redis-server:redis-server promtool:prometheus amtool:prometheus-alertmanager prometheus-alertmanager:prometheus-alertmanager shellcheck:shellcheck; do
  PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
compgen -G '/usr/lib/*/varnish/vmods/libvmod_xkey.so' >/dev/null || missing+=(varnish-modules)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then echo "programs: neither root nor apt-get, so without ${missing[*]}"; exit 0; fi
echo "programs: installing ${missing[*]}"
# Debian's packages start their services; nothing may listen here but what a test starts.
policy=/usr/sbin/policy-rc.d
[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; trap 'rm -f $policy' EXIT; }
install() { DEBIAN_FRONTEND=noninteractive timeout 900 apt-get -qq -y --no-install-recommends install "$@"; }
log="$(mktemp)"
{ timeout 120 apt-get -qq update && install "${missing[@]}"; } >"$log" 2>&1 && exit 0
tail -3 "$log"
# One that cannot be had must not keep the others away, nor what a time-out left half done.
dpkg --configure -a >>"$log" 2>&1 || true
for package in "${missing[@]}"; do install "$package" >>"$log" 2>&1 || echo "programs: could not install $package"; done
