#!/usr/bin/env bash
# Runs every test. On a fresh Debian with a Rust toolchain it first installs what they need.
# Arguments go to `cargo test --workspace`, for instance: ./tests/run.sh --release
set -euo pipefail
cd "$(dirname "$0")/.."

# A C compiler for SQLite and ring; Python for the providers' own libraries; `ip` for links that go.
install() {
    local missing=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    command -v ip >/dev/null || missing+=(iproute2)
    [ ${#missing[@]} -eq 0 ] && return
    echo "installing: ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "please install as root: ${missing[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

prepare_python() {
    local directory=target/python
    if ! "$directory/bin/python" -c 'import stripe, standardwebhooks' 2>/dev/null; then
        python3 -m venv --clear "$directory"
        "$directory/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
    fi
    export HOOKFERRY_TEST_PYTHON="$PWD/$directory/bin/python"
}

install
prepare_python

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

# test result: ok. 12 passed; 0 failed; 0 ignored; ...
counts=$(awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "%d passed, %d failed", passed, failed; if (ignored) printf ", %d ignored", ignored }' "$log")
if [ "$status" -ne 0 ] && [[ $counts == *" 0 failed"* ]]; then
    echo "cargo test did not finish (exit code $status)" >&2
fi
grep -h '^\(chaos\|matrix\|agents\|liveness\|NOT TESTED\)' "$log" || true
echo "$counts"
exit "$status"
