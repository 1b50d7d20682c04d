# shellcheck shell=bash
# The unit and integration tests on Debian 13, whose Python is 3.13, beside the main suite. Tests of containers are left
# out by their mark; any other test that would be skipped there is a failure.
NEWER_NAME=rehearsal-newer-python

# start_newer_python DIR INDEX: start them in the background, in a container of the engine that runs; the log is below DIR.
start_newer_python() {
    NEWER_LOG=$1/newer-python.log
    set -m # a group of its own, which can be ended as a whole
    test_newer_python "$@" </dev/null >"$NEWER_LOG" 2>&1 &
    NEWER_PID=$!
    set +m
}

test_newer_python() {
    local index=$2
    set -e
    make_base_image "$1" trixie rehearsal-base-13
    # SYS_ADMIN, because a test mounts a small disk. The checkout is read-only: no test may write into it.
    docker run --rm --name "$NEWER_NAME" --init --cap-add SYS_ADMIN --security-opt apparmor=unconfined \
        --network host --volume "$PWD:/checkout:ro" --workdir /checkout \
        ${index:+--env "PIP_INDEX_URL=$index"} --env PYTHONPYCACHEPREFIX=/tmp/pycache \
        --env HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis rehearsal-base-13 bash -euc '
            python3 --version
            python3 -m venv /opt/tests
            /opt/tests/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes \
                -r requirements-dev.lock
            /opt/tests/bin/python -m pytest -q -p no:cacheprovider -m "not docker and not long" tests/unit tests/integration'
    if summary_of "$NEWER_LOG" | grep skipped; then
        echo "No test may be skipped here; the reasons stand above."
        return 1
    fi
}

# summary_of LOG: pytest's last line.
summary_of() {
    grep -E '[0-9]+ passed.* in [0-9.]+s' "$1" | tail -n 1
}

# finish_newer_python: wait for them and show how they ended, everything if they failed.
finish_newer_python() {
    local status=0
    wait "$NEWER_PID" || status=$?
    NEWER_PID=
    echo "Unit and integration tests on $(grep -m 1 '^Python' "$NEWER_LOG" || echo "Debian 13"):"
    if [ "$status" = 0 ]; then summary_of "$NEWER_LOG"; else cat "$NEWER_LOG"; fi
    return "$status"
}

# stop_newer_python: end them, if they still run; says nothing.
stop_newer_python() {
    [ -n "${NEWER_PID:-}" ] || return 0
    kill -- "-$NEWER_PID" 2>/dev/null || true
    docker rm --force "$NEWER_NAME" >/dev/null 2>&1 || true
    wait "$NEWER_PID" 2>/dev/null || true
}
