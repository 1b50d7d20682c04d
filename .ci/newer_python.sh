# shellcheck shell=bash
# The unit tests, and some integration tests, on Debian 13, whose Python is 3.13, beside the main suite, in the image `flows` on that
# base. Tests of containers are left out by their mark; any other test that would be skipped there is a failure.
NEWER_NAME=rehearsal-newer-python
# The integration tests that also run there: those that train, export, serve, log and keep something by each library.
# The others prove the same code on more cases, crash points and faults, in the main suite.
INTEGRATION="check experiments export flow model_server/test_transcripts object_store stream training_process"

# start_newer_python DIR INDEX IMAGE: build the image `flows` and start them, in the background, in a container of the
# engine that runs; the log is below DIR.
start_newer_python() {
    NEWER_LOG=$1/newer-python.log
    set -m # a group of its own, which can be ended as a whole
    test_newer_python "$@" </dev/null >"$NEWER_LOG" 2>&1 &
    NEWER_PID=$!
    set +m
}

test_newer_python() {
    local dir=$1 index=$2 image=$3 chosen=() name
    set -e
    for name in $INTEGRATION; do
        case $name in */*) ;; *) name=test_$name ;; esac
        chosen+=("tests/integration/$name.py")
        [ -e "tests/integration/$name.py" ] || { echo "no module $name.py"; return 1; }
    done
    make_base_image "$dir" trixie rehearsal-base-13
    build_flows_image "$index" "$image"
    # SYS_ADMIN, because a test mounts a small disk. The suite runs in a copy, so that its bytecode can be kept.
    docker run --rm --name "$NEWER_NAME" --init --cap-add SYS_ADMIN --security-opt apparmor=unconfined \
        --network host --volume "$PWD:/original:ro" --workdir /checkout \
        ${index:+--env "PIP_INDEX_URL=$index"} \
        --user root --env PYTHONPATH= --env HOME=/root \
        --entrypoint bash "$image" -euc '
            python --version
            tar --directory /original --create --exclude ./.venv --exclude __pycache__ . | tar --extract
            pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes -r requirements-dev.lock
            python -m pytest -q -p no:cacheprovider -m "not docker and not long" tests/unit "$@"' \
        pytest "${chosen[@]}"
    if summary_of "$NEWER_LOG" | grep skipped; then
        echo "No test may be skipped here; the reasons stand above."
        return 1
    fi
}

# build_flows_image INDEX IMAGE: the `flows` target on Debian 13, without the stages before it, which the classic builder
# would build, too. BuildKit would want its own plugin.
build_flows_image() {
    sed -n '/^ARG BASE_IMAGE=/p; /AS flows$/,$p' Dockerfile |
        DOCKER_BUILDKIT=0 docker build --network host --file - --tag "$2" --build-arg BASE_IMAGE=rehearsal-base-13 \
            --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
            ${1:+--build-arg "PIP_INDEX_URL=$1"} .
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
    echo "Unit tests and chosen integration tests on $(grep -m 1 '^Python' "$NEWER_LOG" || echo "Debian 13"):"
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
