#!/usr/bin/env bash
# `make verify-workflow`: .github/workflows/ci-cd.yml executed by act on this machine, for a pull request, a push to main and a tag.
# Actions of others are stubs that do nothing, and so are make, sudo, docker and cosign, which only note that they were called:
# what is tried is what the workflow itself says, its order, its conditions, the ID that goes from the build to the push, and the
# digest that goes from there to the releases.
# Exit 3: not tried.
set -euo pipefail
cd "$(dirname "$0")/../.."
act=.run/tools/bin/act
[ -x $act ] || { echo "verify-workflow: NOT VERIFIED, make deploy-tools installs act"; exit 3; }
act="$PWD/$act"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
failed=0
check() { if test "$2" "$3" "$4"; then printf '  %-64s %s\n' "$1" "$2"; else printf '  %-64s %s (wanted %s %s)   <-- FAILED\n' "$1" "$2" "$3" "$4"; failed=1; fi; }

digest="sha256:$(printf '%064d' 7)" id="sha256:$(printf '%064d' 8)"
flags=()
while read -r used; do
  action="${used%@*}"; repository="$(cut -d/ -f1,2 <<<"$action")"; folder="$work/stubs/$repository${action#"$repository"}"
  mkdir -p "$folder"
  printf 'name: stub\nruns: {using: composite, steps: [{run: "true", shell: sh}]}\n' >"$folder/action.yml"
  flags+=(--local-repository "$repository@${used#*@}=$work/stubs/$repository")
done < <(sed -n 's/.*uses: \([^ ]*\).*/\1/p' .github/workflows/ci-cd.yml | sort -u)
mkdir "$work/path" "$work/copy"
for program in make sudo cosign docker; do
  printf '#!/bin/sh\necho "$GITHUB_JOB: %s $*" >>"%s/calls"\n[ -z "$FAIL" ] || [ "$FAIL" != "$1" ] || exit 1\ncase "%s $*" in "docker image inspect"*) echo %s ;; "make --silent push"*) echo %s ;; esac\n' \
    "$program" "$work" "$program" "$id" "$digest" >"$work/path/$program"
done
chmod +x "$work/path/"*
cp -r .github "$work/copy"
git -C "$work/copy" init -q -b main && git -C "$work/copy" -c user.name=x -c user.email=x@x commit -q --allow-empty -m x

# $1 event, $2 its content, $3 the make target that fails, if any; leaves what was called, sorted, in calls
run() {
  : >"$work/calls"; printf '%s' "$2" >"$work/event.json"
  (cd "$work/copy" && HOME="$work" PATH="$work/path:$PATH" timeout 300 "$act" "$1" --eventpath "$work/event.json" -P ubuntu-24.04=-self-hosted \
    --env FAIL="${3:-}" -s KUBECONFIG=kubeconfig-of-nobody -s GITHUB_TOKEN=token-of-nobody --var URL=https://x.example --actor someone "${flags[@]}") >"$work/log" 2>&1 && ended=0 || ended=1
}
times() { grep -c "$1" "$work/calls" || true; }

run pull_request '{"pull_request": {"head": {"ref": "x", "repo": {"fork": false}}, "base": {"ref": "main"}}}'
check "a pull request, ends with" "$ended" = 0
check "  make targets that it calls" "$(sed -n 's/.*: make //p' "$work/calls" | sort -u | xargs)" = "audit bandit coverage lint test verify-compose verify-image verify-static"
check "  test jobs: Python 3.11 to 3.14" "$(times '^test: make')" = 4
check "  pushes, signatures and releases" "$(times 'push\|cosign\|make release')" = 0
run push '{"ref": "refs/heads/main"}'
check "a push to main, ends with" "$ended" = 0
check "  pushes the image that was scanned" "$(times "make --silent push ID=$id IMAGE=.*/knowalledge:")" = 1
check "  signs what was pushed, and what is in it" "$(times "cosign sign .*@$digest\|cosign attest .*@$digest")" = 2
check "  releases it to staging" "$(times "staging: make release OVERLAY=staging IMAGE=.*/knowalledge@$digest URL=https://x.example")" = 1
check "  releases it to production" "$(times '^production')" = 0
run push '{"ref": "refs/tags/v1.2.3"}'
check "a tag, ends with" "$ended" = 0
check "  releases to staging, then to production" "$(sed -n 's/: make release.*//p' "$work/calls" | xargs)" = "staging production"
check "  asks that every image is named by digest" "$(times 'build: make check-pins')" = 1
run push '{"ref": "refs/tags/v1.2.3"}' check-pins
check "an image has no digest, ends with" "$ended" = 1
check "  nothing is pushed, signed or released" "$(times 'make --silent push\|cosign\|^staging\|^production')" = 0
run push '{"ref": "refs/tags/v1.2.3"}' audit
check "an advisory is found, ends with" "$ended" = 1
check "  nothing is built, signed or released" "$(times '^build\|^staging\|^production')" = 0
run push '{"ref": "refs/tags/v1.2.3"}' release
check "staging is taken back, ends with" "$ended" = 1
check "  production is not touched" "$(times '^production')" = 0
[ $failed = 0 ] && echo "verify-workflow: all held" || { tail -20 "$work/log"; cat "$work/calls"; echo "verify-workflow: FAILED"; }
exit $failed
