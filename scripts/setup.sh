#!/usr/bin/env bash
# Sees to what a build needs: a C linker, make and Rust. Installs what is missing with apt on Debian and its kin;
# elsewhere it says what to do. Does nothing, and says nothing, where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

# apt, as root or through sudo; false where neither can be had
apt() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then
        DEBIAN_FRONTEND=noninteractive apt-get "$@"
    elif command -v sudo >/dev/null; then
        sudo DEBIAN_FRONTEND=noninteractive apt-get "$@"
    else
        return 1
    fi
}

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v make >/dev/null || packages+=(make)
if [ ${#packages[@]} -gt 0 ]; then
    echo "setup: installing ${packages[*]}" >&2
    if ! { apt update -qq && apt install -y -qq --no-install-recommends "${packages[@]}"; } >&2; then
        cat >&2 <<MESSAGE
setup: a C compiler (used as the linker) or make is missing, and apt cannot install it here.
  Debian, Ubuntu:  apt-get install gcc libc6-dev make      (as root)
  Fedora:          dnf install gcc make                    (as root)
  Arch:            pacman -S gcc make                      (as root)
  macOS:           xcode-select --install
MESSAGE
        exit 1
    fi
fi

# whether `cargo` is there and at least as new as the workspace asks for
rust_is_there() {
    command -v cargo >/dev/null || return 1
    local have
    have=$(cargo --version | cut -d' ' -f2 | cut -d- -f1)
    [ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -1)" = "$need" ]
}

if ! rust_is_there; then
    # Debian 13 packages rustup; Debian's own rustc is older than the workspace asks for
    if ! command -v rustup >/dev/null && command -v apt-cache >/dev/null && [ -n "$(apt-cache madison rustup 2>/dev/null)" ]; then
        echo "setup: installing rustup" >&2
        apt install -y -qq --no-install-recommends rustup >&2 || true
    fi
    if command -v rustup >/dev/null; then
        rustup toolchain install stable --profile minimal --component rustfmt --component clippy >&2 && rustup default stable >&2 || true
    fi
fi
if ! rust_is_there; then
    cat >&2 <<MESSAGE
setup: Rust $need or newer is missing ($(command -v cargo >/dev/null && cargo --version || echo "no cargo on the path")).
  Install it with rustup, as https://rustup.rs says:
      curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
  or, where rustup is there:
      rustup update stable
  then open a new shell and run this again.
MESSAGE
    exit 1
fi
