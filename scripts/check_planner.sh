#!/usr/bin/env bash
# Planning needs nothing but Rust: the planner builds by itself, and none of its dependencies builds or links C.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked --package partita-planner
native=$(cargo tree --locked --package partita-planner --edges normal,build --prefix none |
    grep -E '^(cc|cmake|bindgen|pkg-config|[a-z0-9_-]+-sys) ' || true)
if [ -n "$native" ]; then
    echo "the planner depends on native code:" >&2
    echo "$native" >&2
    exit 1
fi
