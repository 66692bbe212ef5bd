#!/bin/sh
# What a replica runs: dependencies as the release locks them, then serve.py (by start.py).
#
# <sys.prefix>/inference.txt is the lock that the Python environment on PATH was installed from: the image's build puts it
# there, and so does this script. The same lock as the release's: start at once. Another one, or none: install first.
# So it is with quantization.txt, when INFERENCE_QUANTIZATION asks for what a GPU needs for it.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
INFERENCE_RELEASE_FOLDER=$(dirname -- "$here")
export INFERENCE_RELEASE_FOLDER
locks=$INFERENCE_RELEASE_FOLDER/requirements

say() {
    printf '%s %s start: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$2" >&2
}

fail() {
    say ERROR "$1"
    exit 1
}

# How old this process is: the container's command is replaced by this script, so that is how long it waited for a
# release (proc_pid_stat(5): field 22 is the start in ticks, of which Linux always tells 100 a second).
unset INFERENCE_WAIT_SECONDS
if [ -r /proc/uptime ] && [ -r "/proc/$$/stat" ]; then
    read -r uptime rest </proc/uptime
    read -r stat <"/proc/$$/stat"
    # Behind the command's name, which may hold anything, stands field 3.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    shift 19
    waited=$((${uptime%.*} - $1 / 100))
    # Some containers are told an uptime of their own.
    if [ "$waited" -ge 0 ]; then export INFERENCE_WAIT_SECONDS="$waited"; fi
fi

python=$(command -v python || command -v python3) || fail "there is no python on PATH: use an image with Python 3.10 or newer"
prefix=$("$python" -c 'import sys; print(sys.prefix)')

# Process 1 of a container ignores a request to stop unless it has a trap, and is killed after the whole grace period.
child=
stop() {
    say INFO "told to stop: ending"
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    exit 143
}
trap stop TERM INT

# run COMMAND...: in the background, for a shell that waits for a command in the foreground hears no signal.
run() {
    "$@" >&2 &
    child=$!
    wait "$child" || return
    child=
}

# uv installs, and pip brings uv where the image has none. pip itself keeps every wheel until all are unpacked: 8.5 GiB, and a
# replica's disk has 8 at most (with one vCPU 4). uv unpacks as it downloads, so it needs no more than what it leaves there.
install() {
    if command -v uv >/dev/null 2>&1; then
        run uv pip install --python "$python" "$@"
    else
        [ -f "$locks/uv.txt" ] || fail "the release has no $locks/uv.txt: deploy again, a release is written whole"
        run "$python" -m pip install --no-cache-dir --no-input --disable-pip-version-check --root-user-action ignore \
            --progress-bar off --no-deps --require-hashes -r "$locks/uv.txt" || return
        run "$python" -m uv pip install --python "$python" "$@"
    fi
}

# ensure NAME WHAT: what NAME.txt of the release locks is installed. The seconds that it took are added to $installing.
ensure() {
    lock=$locks/$1.txt
    [ -f "$lock" ] || fail "the release has no $lock: deploy again, a release is written whole"
    if cmp -s "$lock" "$prefix/$1.txt"; then
        say INFO "$2 in $prefix are the release's: nothing to install"
        return
    fi
    [ -w "$prefix" ] || fail "$2 in $prefix are not the release's, and user $(id -u) may not write there: use an image that was built from this lock"
    count=$(grep -c '^[A-Za-z0-9]' "$lock" || true)
    say WARNING "$2 in $prefix are not the release's: installing from the lock ($count entries). Every start of a replica pays for this; an image built from this lock does not"
    began=$(date +%s)
    # What is half installed is nobody's lock.
    rm -f "$prefix/$1.txt"
    # A cache would keep every package a second time. Compiling all that is installed takes longer than the start that would
    # be quicker for it: Python compiles the quarter that it imports.
    install --no-cache --no-progress --no-deps --require-hashes -r "$lock" || fail "$2 could not be installed: the lines above say why"
    took=$(($(date +%s) - began))
    installing=$((installing + took))
    # Only a whole installation leaves its lock behind.
    cp "$lock" "$prefix/$1.txt.new"
    mv "$prefix/$1.txt.new" "$prefix/$1.txt"
    say INFO "dependencies installed in $took s"
}

installing=0
ensure inference "the dependencies"
case ${INFERENCE_QUANTIZATION:-none}:${INFERENCE_DEVICE:-auto} in
none:* | *:cpu) ;;
*:cuda) ensure quantization "the dependencies of quantization" ;;
# The NVIDIA driver's own device: a replica without it computes on its CPU, which needs nothing more.
*) if [ -e /dev/nvidiactl ]; then ensure quantization "the dependencies of quantization"; fi ;;
esac
INFERENCE_INSTALL_SECONDS=$installing
export INFERENCE_INSTALL_SECONDS

export PYTHONUNBUFFERED=1
cd "$here"
exec "$python" start.py
