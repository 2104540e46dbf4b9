#!/bin/sh
# One machine: as many ranks as it has GPUs (or RANKS=N), arguments go to drb train.
#     launch/torchrun.sh experiment=fashion_mnist_online seed=1
# More machines: set NNODES, and HEAD to the first machine's host name, and start this on each of them.
set -eu

if [ -z "${RANKS:-}" ]; then
    RANKS=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
    [ "$RANKS" -gt 0 ] || RANKS=2
fi
if [ "${NNODES:-1}" -gt 1 ]; then
    : "${HEAD:?set HEAD to the host name of the first machine}"
    set -- --nnodes="$NNODES" --rdzv-backend=c10d --rdzv-endpoint="$HEAD:${PORT:-29400}" \
        --rdzv-id="${RUN:-drb}" --nproc-per-node="$RANKS" -m drb.train "$@"
else
    set -- --standalone --nproc-per-node="$RANKS" -m drb.train "$@"
fi
exec python3 -m torch.distributed.run "$@"
