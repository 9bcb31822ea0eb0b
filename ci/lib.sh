# What the scripts of ci/ share; sourced by them. Works as root and with sudo, never asks anything.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
cd "$ROOT"

export DEBIAN_FRONTEND=noninteractive
export CARGO_TERM_PROGRESS_WHEN=never

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@" || fail "'$*' failed; if sudo asks for a password here, run this script as root"
    else
        fail "'$*' needs root; run this script as root or install sudo"
    fi
}

# Seconds since $1, a value of $EPOCHREALTIME, with one decimal.
seconds_since() {
    awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }'
}

TIMES=()
STEP=

# step NAME COMMAND…: runs a command under a heading and keeps its wall time for print_times. A failing
# command ends the script by errexit, which "command || …" would switch off inside functions.
step() {
    local name=$1 started=$EPOCHREALTIME took
    shift
    STEP=$name
    say "==> $name"
    "$@"
    took=$(seconds_since "$started")
    TIMES+=("$(printf '%-24s %8s s' "$name" "$took")")
    say "==> $name: $took s"
    STEP=
}

trap '[[ $? -eq 0 || -z $STEP ]] || say "error: $STEP failed"' EXIT

print_times() {
    say "wall times:"
    printf '  %s\n' "${TIMES[@]}" >&2
}

is_installed() {
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Whether a Debian package is installed or can be.
is_available() {
    is_installed "$1" && return
    apt-cache show "$1" >/dev/null 2>&1 && return
    # Lists may be absent, as in a container image, and then know nothing.
    # In a shell of its own, since whoever is not root here can do without.
    (as_root apt-get update -q) >"$TARGET/apt.log" 2>&1 || say "apt-get update had failures; see $TARGET/apt.log"
    apt-cache show "$1" >/dev/null 2>&1
}

# Installs those of the named Debian packages that are missing.
need_packages() {
    local missing=() package
    command -v apt-get >/dev/null || fail "this script installs packages with apt-get; install by hand: $*"
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] && return
    say "installing ${missing[*]}"
    # Lists may be old or, in a container image, absent: a second try has fresh ones.
    # In shells of their own: what ends them is said in the log, which is shown at the end.
    (as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}") >"$TARGET/apt.log" 2>&1 && return
    (as_root apt-get update -q) >"$TARGET/apt.log" 2>&1 || say "apt-get update had failures; see $TARGET/apt.log"
    (as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}") >>"$TARGET/apt.log" 2>&1 ||
        { tail -n 20 "$TARGET/apt.log" >&2 && fail "could not install ${missing[*]}"; }
}

# A Rust toolchain of at least the workspace's rust-version, and a C compiler.
need_toolchain() {
    mkdir -p "$TARGET"
    [[ -x ${HOME:-}/.cargo/bin/cargo ]] && PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null ||
        fail "there is no cargo; install Rust: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    have=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n1) == "$wanted" ]] ||
        fail "Rust $have is older than $wanted; run: rustup update stable"
    command -v cc >/dev/null || need_packages gcc libc6-dev
}

# A Docker engine that this user can talk to: the one that answers, or Debian's, installed and started.
need_docker() {
    docker_answers && return
    command -v dockerd >/dev/null || need_packages docker.io
    # The client is a package of its own since Debian 13.
    command -v docker >/dev/null || need_packages docker-cli
    if ! as_root docker info >/dev/null 2>&1; then
        start_docker
    fi
    if ! docker_answers; then
        # The engine serves root alone; who may use sudo may have its socket.
        need_packages acl
        as_root setfacl -m "u:$(id -un):rw" /var/run/docker.sock
    fi
    docker_answers || fail "no Docker engine answers although one was started; see $TARGET/dockerd.log"
}

docker_answers() {
    command -v docker >/dev/null && timeout 20 docker info >/dev/null 2>&1
}

start_docker() {
    local log=$TARGET/dockerd.log left=60
    say "starting dockerd, log in $log"
    as_root sh -c 'setsid nohup dockerd >"$1" 2>&1 </dev/null &' sh "$log"
    until as_root timeout 5 docker info >/dev/null 2>&1; do
        left=$((left - 1))
        [[ $left -gt 0 ]] || { tail -n 20 "$log" >&2 && fail "dockerd does not answer after 60 s; its log is $log"; }
        sleep 1
    done
}

# The second PKCS#11 token of the tests, from crates.io, built apart from the workspace.
need_kryoptic() {
    local module=$TARGET/kryoptic/libkryoptic_pkcs11.so built=$TARGET/kryoptic/build
    # bindgen, which it builds with, needs a libclang and the compiler's own headers.
    need_packages pkg-config libssl-dev libsqlite3-dev libclang1
    BINDGEN_EXTRA_CLANG_ARGS="-isystem $(cc -print-file-name=include)" \
        cargo build --quiet --locked --manifest-path ci/kryoptic/Cargo.toml --target-dir "$built"
    cp "$(newest "$built"/debug/deps/libkryoptic_pkcs11-*.so)" "$module"
}

# The youngest of some files.
newest() {
    local file newest=$1
    for file; do
        [[ $file -nt $newest ]] && newest=$file
    done
    printf '%s' "$newest"
}
