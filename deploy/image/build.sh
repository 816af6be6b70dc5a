#!/usr/bin/env bash
# Builds the image of all roles, without a container engine: one static program on nothing, and what it is made of.
#
# The bytes depend on the sources, the lock file and the compiler alone: paths of this machine are taken out. Linked with
# the C library's own allocator, resolver and all (decision 0041 has the figures), so that the base can be empty.
#
# usage: deploy/image/build.sh [NAME:TAG]     prints one line of JSON; the archive is $CARGO_TARGET_DIR/images/everring.tar
set -euo pipefail
cd "$(dirname "$0")/../.."

name="${1:-everring:dev}"
target_dir="${CARGO_TARGET_DIR:-$PWD/target}"
triple="${EVERRING_IMAGE_TARGET:-$(rustc -vV | awk '/^host:/ { print $2 }')}"
limit_mib=40
images="$target_dir/images"
mkdir -p "$images"

registry="${CARGO_HOME:-$HOME/.cargo}/registry/src"
# Where it was built must not show: the same source makes the same bytes anywhere. (The last rule that fits counts.)
remap="--remap-path-prefix=$registry=/cargo --remap-path-prefix=$PWD=/everring --remap-path-prefix=$target_dir/image=/target"
RUSTFLAGS="-C target-feature=+crt-static $remap" \
    CARGO_TARGET_DIR="$target_dir/image" \
    cargo build --release --locked --quiet -p everring --features kubernetes --target "$triple"
program="$target_dir/image/$triple/release/everring"
if ! file=$(LC_ALL=C ldd "$program" 2>&1) && [ -z "$file" ]; then
    file="statically linked"
fi
case "$file" in
*"statically linked"* | *"not a dynamic executable"*) ;;
*)
    printf 'image: the program is not static, so it would not start on an empty base:\n%s\n' "$file" >&2
    exit 1
    ;;
esac

for path in "$registry" "$PWD" "$target_dir"; do
    if grep -qaF "$path/" "$program"; then
        echo "image: the program names $path, so its bytes depend on where it was built" >&2
        exit 1
    fi
done

cargo metadata --format-version 1 --locked --features everring/kubernetes --filter-platform "$triple" |
    python3 deploy/image/sbom.py Cargo.lock >"$images/everring.cdx.json"
version=$("$program" --version | cut -d' ' -f2)
made=$(python3 deploy/image/image.py "$images/everring.tar" "$name" \
    --file "/everring=$program" --file "/sbom.cdx.json=$images/everring.cdx.json" --entrypoint /everring \
    --label org.opencontainers.image.title=everring --label "org.opencontainers.image.version=$version" \
    --label org.opencontainers.image.licenses=Apache-2.0)
echo "$made"
size=$(printf '%s' "$made" | sed -E 's/.*"unpacked_mib": ([0-9]+).*/\1/')
if [ "$size" -ge "$limit_mib" ]; then
    echo "image: $size MiB are more than the $limit_mib that it may have" >&2
    exit 1
fi
