# shellcheck shell=bash
# A container engine of our own: its data, socket and bridge are apart from any engine of the machine.
# It writes no firewall rule (--iptables=false), because a second engine would flush those of the first;
# ports published on 127.0.0.1 then go through docker-proxy, and image builds use the host's network.

# start_engine DIR: start dockerd with everything it owns below DIR and export DOCKER_HOST.
start_engine() {
    local dir=$1 net
    ENGINE_BRIDGE=
    ENGINE_DIR=$dir
    # The bridge's name says its network, so that the kernel refuses a second one. Addresses of other bridges are
    # compared without a pipe: a `grep -q` that has seen enough would end `ip`, and pipefail call that "not found".
    for net in $(seq 0 255); do
        [[ $(ip -4 -o addr) != *" 10.213.$net."* ]] || continue
        ip link add name "rehearsal-$net" type bridge 2>/dev/null || continue
        ENGINE_BRIDGE=rehearsal-$net
        break
    done
    if [ -z "${ENGINE_BRIDGE:-}" ]; then
        echo "No network of 10.213.0.0/16 is free for the container engine's bridge (see: ip addr)." >&2
        return 1
    fi
    ip addr add "10.213.$net.1/24" dev "$ENGINE_BRIDGE"
    ip link set "$ENGINE_BRIDGE" up
    export DOCKER_HOST="unix://$dir/docker.sock"
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
    dockerd --host "$DOCKER_HOST" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
        --containerd-namespace "$ENGINE_BRIDGE" --containerd-plugins-namespace "$ENGINE_BRIDGE-plugins" \
        --bridge "$ENGINE_BRIDGE" --iptables=false --ip-masq=false --ip-forward=false \
        >"$dir/dockerd.log" 2>&1 &
    ENGINE_PID=$!
    for _ in $(seq 300); do
        docker version >/dev/null 2>&1 && return
        kill -0 "$ENGINE_PID" 2>/dev/null || break
        sleep 0.2
    done
    echo "The container engine did not start:" >&2
    tail -n 30 "$dir/dockerd.log" >&2
    return 1
}

# stop_engine: end it, and take away its bridge and its mounts; says nothing.
stop_engine() {
    if [ -n "${ENGINE_PID:-}" ]; then
        kill "$ENGINE_PID" 2>/dev/null || true
        wait "$ENGINE_PID" 2>/dev/null || true
    fi
    if [ -n "${ENGINE_DIR:-}" ]; then
        # Deepest first; a mount that is left would make `rm -rf` reach through it.
        awk -v dir="$ENGINE_DIR/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r |
            xargs --no-run-if-empty umount --lazy 2>/dev/null || true
    fi
    [ -z "${ENGINE_BRIDGE:-}" ] || ip link delete "$ENGINE_BRIDGE" 2>/dev/null || true
}

# make_base_image DIR SUITE TAG: make a base image with Python out of Debian's own packages: bookworm has Python 3.11,
# trixie 3.13. The machine's CA bundle goes into it, so that a build inside reaches whatever index the machine reaches.
make_base_image() {
    local root=$1/$2 suite=$2 tag=$3 bundle=/etc/ssl/certs/ca-certificates.crt
    # The script of sid is that of every suite; an older debootstrap has no name of its own for trixie.
    if ! debootstrap --variant=minbase --include=ca-certificates,make,python3,python3-venv "$suite" "$root" "" sid \
        >"$root.log" 2>&1; then
        echo "debootstrap $suite failed:" >&2
        tail -n 30 "$root.log" >&2
        return 1
    fi
    cp "${SSL_CERT_FILE:-$bundle}" "$root$bundle"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,locale,man}/*
    tar --create --directory "$root" . | docker import \
        --change "ENV PIP_CERT=$bundle" --change "ENV SSL_CERT_FILE=$bundle" - "$tag" >/dev/null
    rm -rf "$root"
}
