#!/usr/bin/env bash
# drb train by torchrun: on this machine with one rank per GPU, or on several machines. Arguments go to drb train.
#
#     launch/torchrun.sh experiment=fashion_mnist_online seed=1
#     NNODES=2 NODE_RANK=0 RDZV_ENDPOINT=node1:29400 RDZV_ID=july launch/torchrun.sh experiment=paper_imagenet_resnet50    # on node1
#     NNODES=2 NODE_RANK=1 RDZV_ENDPOINT=node1:29400 RDZV_ID=july launch/torchrun.sh experiment=paper_imagenet_resnet50    # on node2
#
# Settings by environment:
#   NPROC_PER_NODE  ranks on this machine; default: its GPUs, or 2 without any
#   NNODES          machines; default 1. MIN:MAX: as many as there are, also when some come or go during the run
#   NODE_RANK       this machine's number; number 0 is where RDZV_ENDPOINT is (needed if NNODES > 1)
#   RDZV_ENDPOINT   host:port or [IPv6]:port where the machines meet, the same on all (needed if NNODES > 1)
#   RDZV_ID         name of the run, the same on all machines; the run directory is runs/RDZV_ID; default: the time
#                   and four random digits
#   MAX_RESTARTS    how often torchrun starts all ranks again after a failure; they continue from a checkpoint; default 0,
#                   or 3 with NNODES=MIN:MAX
#   RDZV_CONF       more of torchrun's --rdzv-conf, such as last_call_timeout=10 (seconds to wait for more than MIN)
#   START_TIMEOUT   seconds that other machines wait for number 0 to listen; default 25
#   LOCAL_ADDR      what other machines call this one; default: its host name
#   PYTHON          default python3
set -euo pipefail

die() {
    echo "launch/torchrun.sh: error: $*" >&2
    exit 1
}

# RDZV_ENDPOINT wrong, blocked or taken is a minute of waiting and a traceback in torchrun; here it is one line.
check_endpoint() {
    : "${NODE_RANK:?NNODES=$NNODES needs NODE_RANK, this machine\'s number from 0 to $((MOST_NODES - 1))}"
    : "${RDZV_ENDPOINT:?NNODES=$NNODES needs RDZV_ENDPOINT=host:port, the same on all machines}"
    local host=${RDZV_ENDPOINT%:*} port=${RDZV_ENDPOINT##*:} deadline=$((SECONDS + ${START_TIMEOUT:-25}))
    [[ $host != "$port" && $port =~ ^[0-9]+$ ]] || die "RDZV_ENDPOINT must be host:port, got $RDZV_ENDPOINT"
    host=${host#[} host=${host%]}
    getent ahosts "$host" > /dev/null || die "RDZV_ENDPOINT=$RDZV_ENDPOINT: there is no host $host"
    if ((NODE_RANK == 0)); then
        ! answers "$host" "$port" || die "RDZV_ENDPOINT=$RDZV_ENDPOINT: port $port of $host is in use; choose another"
        return
    fi
    until answers "$host" "$port"; do
        ((SECONDS < deadline)) || die "nothing answers at RDZV_ENDPOINT=$RDZV_ENDPOINT after ${START_TIMEOUT:-25} s:" \
            "start NODE_RANK=0 there first, and check the address and the firewall"
        sleep 1
    done
}

answers() {
    timeout 2 bash -c ': < "/dev/tcp/$0/$1"' "$1" "$2" 2> /dev/null
}

NNODES=${NNODES:-1}
MOST_NODES=${NNODES##*:}
[[ -n ${PYTHON:-} || ! -x .venv/bin/python ]] || PYTHON=.venv/bin/python
PYTHON=${PYTHON:-python3}
RDZV_ID=${RDZV_ID:-$(date +%Y%m%d-%H%M%S)-$(od -An -N2 -tx1 /dev/urandom | tr -d ' ')}
if [[ -z ${NPROC_PER_NODE:-} ]]; then
    NPROC_PER_NODE=$( (nvidia-smi --list-gpus 2> /dev/null || true) | wc -l)
    ((NPROC_PER_NODE > 0)) || NPROC_PER_NODE=2
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [[ $NNODES != "$MOST_NODES" ]]; then
    MAX_RESTARTS=${MAX_RESTARTS:-3}
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or a machine that joins later waits for ever (PyTorch 2.4 to 2.14)
fi
if ((MOST_NODES > 1)); then
    check_endpoint
    MEETING=(--nnodes="$NNODES" --rdzv-backend=c10d --rdzv-endpoint="$RDZV_ENDPOINT" --rdzv-id="$RDZV_ID")
    # a second try at the meeting point's own port must not make a machine listen that is not number 0
    MEETING+=(--rdzv-conf="is_host=$((NODE_RANK == 0))${RDZV_CONF:+,$RDZV_CONF}")
    [[ -z ${LOCAL_ADDR:-} ]] || MEETING+=(--local-addr="$LOCAL_ADDR")
else
    MEETING=(--standalone --local-addr="${LOCAL_ADDR:-localhost}") # laptops may not know their own name
fi
exec "$PYTHON" -m drb.distributed.torchrun "${MEETING[@]}" --nproc-per-node="$NPROC_PER_NODE" \
    --max-restarts="${MAX_RESTARTS:-0}" -m drb.train run_id="$RDZV_ID" "$@"
