#!/usr/bin/env bash
# `make verify-setup`: a bare clone of this commit, set up without any cache, while a second package index offers a newer, wrong
# release of everything that the locks name. TARGETS="setup lint test" makes more than the environment; PYTHON chooses another.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="$(command -v "${PYTHON:-python3}")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
git clone --quiet --bare . "$work/bare.git"
git clone --quiet "$work/bare.git" "$work/clone"

PYTHONPATH=backend "$python" - "$work/index" backend/requirements/*.txt <<'PYTHON'
import pathlib, re, sys
from tests.support.package_index import PackageIndex
index = PackageIndex(pathlib.Path(sys.argv[1]))
names = {name for lock in sys.argv[2:] for name in re.findall(r"^([\w.-]+)==", pathlib.Path(lock).read_text(), re.M)}
for name in sorted(names):
    index.add(name, "99999.0", module="raise ImportError('not the locked release')")
PYTHON

export PIP_EXTRA_INDEX_URL="file://$work/index/" PIP_NO_CACHE_DIR=1
for target in ${TARGETS:-setup}; do
  began=$(date +%s)
  make -C "$work/clone" --no-print-directory "$target" PYTHON="$python" >"$work/log" 2>&1 || { tail -n 40 "$work/log"; echo "verify-setup: FAILED, make $target"; exit 1; }
  echo "  make $target, $("$python" -V): $(( $(date +%s) - began )) s"
done
"$work/clone/.venv/bin/python" -m pip list --format=freeze --disable-pip-version-check >"$work/installed"
! grep 99999 "$work/installed" || { echo "verify-setup: FAILED, a newer release than the locked one was taken"; exit 1; }
echo "verify-setup: $(wc -l <"$work/installed") distributions, none newer than its lock"
