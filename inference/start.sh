#!/bin/sh
# What a replica runs: dependencies as the release locks them, then serve.py.
#
# <sys.prefix>/inference.txt is the lock that the Python environment on PATH was installed from: the image's build puts it
# there, and so does this script. The same lock as the release's: start at once. Another one, or none: install first.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
INFERENCE_RELEASE_FOLDER=$(dirname -- "$here")
export INFERENCE_RELEASE_FOLDER
lock=$INFERENCE_RELEASE_FOLDER/requirements/inference.txt

say() {
    printf '%s %s start: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$2" >&2
}

fail() {
    say ERROR "$1"
    exit 1
}

python=$(command -v python || command -v python3) || fail "there is no python on PATH: use an image with Python 3.10 or newer"
[ -f "$lock" ] || fail "the release has no $lock: deploy again, a release is written whole"
prefix=$("$python" -c 'import sys; print(sys.prefix)')

install() {
    if command -v uv >/dev/null 2>&1; then
        # No cache: it would keep every package a second time on the replica's small disk.
        uv pip install --python "$python" --no-cache --no-progress --compile-bytecode --no-deps --require-hashes -r "$lock"
    else
        "$python" -m pip install --no-cache-dir --no-input --disable-pip-version-check --root-user-action ignore \
            --progress-bar off --no-deps --require-hashes -r "$lock"
    fi >&2
}

if cmp -s "$lock" "$prefix/inference.txt"; then
    say INFO "the dependencies in $prefix are the release's: nothing to install"
    unset INFERENCE_INSTALL_SECONDS
else
    [ -w "$prefix" ] || fail "the dependencies in $prefix are not the release's, and user $(id -u) may not write there: use an image that was built from this lock"
    count=$(grep -c '^[A-Za-z0-9]' "$lock" || true)
    say WARNING "the dependencies in $prefix are not the release's: installing from the lock ($count entries). Every start of a replica pays for this; an image built from this lock does not"
    began=$(date +%s)
    install || fail "the dependencies could not be installed: the lines above say why"
    INFERENCE_INSTALL_SECONDS=$(($(date +%s) - began))
    export INFERENCE_INSTALL_SECONDS
    # Only a whole installation leaves its lock behind.
    cp "$lock" "$prefix/inference.txt.new"
    mv "$prefix/inference.txt.new" "$prefix/inference.txt"
    say INFO "dependencies installed in $INFERENCE_INSTALL_SECONDS s"
fi

# A release is never changed, so Python must not leave its compiled files in it.
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
cd "$here"
exec "$python" serve.py
