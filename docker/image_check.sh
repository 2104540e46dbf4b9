#!/usr/bin/env bash
# Really builds docker/Dockerfile and trains in the image, without a Docker engine: buildah with chroot isolation, on a
# base image made by debootstrap. Needs root, Debian or Ubuntu, a network, some minutes and 30 GB in DIR.
#
#     docker/image_check.sh            make image-check
#
# Settings by environment: DIR=/tmp/drb-image-check; KEEP=1 leaves DIR behind (the base image is used again);
# BUILDAH_OPTIONS are given to buildah build and run, such as volumes with wheels.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DIR=${DIR:-/tmp/drb-image-check}
mkdir -p "$DIR"
BUILDAH=(buildah --root "$DIR/storage" --runroot "$DIR/run" --storage-driver vfs)
BASE=localhost/base:bookworm
IMAGE=localhost/drb:checked
# the host's certificates, for a proxy that has its own
read -ra OPTIONS <<< "--volume /etc/ssl/certs:/etc/ssl/certs:ro --isolation chroot ${BUILDAH_OPTIONS:-}"

if ! command -v buildah > /dev/null || ! command -v debootstrap > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah debootstrap crun
fi
[[ -n ${KEEP:-} ]] || trap 'rm -rf "$DIR"' EXIT

if ! "${BUILDAH[@]}" inspect --type image "$BASE" > /dev/null 2>&1; then
    [[ -d $DIR/rootfs/etc ]] || debootstrap --variant=minbase --include=ca-certificates bookworm "$DIR/rootfs"
    container=$("${BUILDAH[@]}" from scratch)
    "${BUILDAH[@]}" add "$container" "$DIR/rootfs" / > /dev/null
    "${BUILDAH[@]}" config --cmd '["/bin/bash"]' \
        --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    "${BUILDAH[@]}" commit --rm -q "$container" "$BASE"
    rm -rf "$DIR/rootfs"
fi

"${BUILDAH[@]}" build "${OPTIONS[@]}" --format docker --pull-never --layers=false --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    --build-arg BASE_IMAGE="$BASE" -f docker/Dockerfile -t "$IMAGE" .
"${BUILDAH[@]}" images

container=$("${BUILDAH[@]}" from --pull-never "$IMAGE")
# an engine makes the container's name known to it in /etc/hosts; buildah in a chroot does not
inside() { "${BUILDAH[@]}" run "${OPTIONS[@]}" --hostname localhost "$container" -- "$@"; }
[[ $(inside id -un) == drb ]] || { echo "image_check: the image's user is not drb" >&2; exit 1; }
inside drb demo
echo "image_check: the image builds, is not root's, and the demo ran in it on two ranks"
