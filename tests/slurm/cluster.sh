#!/usr/bin/env bash
# A throw-away Slurm cluster on loopback, so that the files in slurm/ are tested against a real scheduler.
#   cluster.sh install           apt-get the daemons (no service is started)
#   cluster.sh up                start munged, slurmctld and NODES x slurmd; wait until idle
#   cluster.sh env               print the export lines a client needs:  eval "$(cluster.sh env)"
#   cluster.sh run CMD...        up, run CMD with that environment, always down; exits with CMD's status
#   cluster.sh down              cancel jobs, end the daemons (by pid file), undo /etc/hosts
# Settings by environment: NODES=2 CPUS=8 GPUS=4 (per node) MEM=16000 DIR=/tmp/drb-slurm PREFIX=drbn (node names);
# OWNER=PID: also take it down when that process has ended, however it ended.
# GPUs are copies of /dev/null: they are scheduled and CUDA_VISIBLE_DEVICES is set, but no device is behind them.
set -euo pipefail
NODES=${NODES:-2} CPUS=${CPUS:-8} GPUS=${GPUS:-4} MEM=${MEM:-16000}
DIR=${DIR:-/tmp/drb-slurm}
PREFIX=${PREFIX:-drbn}
CTLD_PORT=${CTLD_PORT:-16817}
read -ra SLURMD_PORTS <<< "${SLURMD_PORTS:-16901 16902 16903 16904}"    # one per node
HOST=$(hostname -s)
MARK="# drb-slurm $DIR"

die() { echo "cluster.sh: $*" >&2; exit 1; }

write_conf() {
    mkdir -p "$DIR"/{etc,log,munge,state,spool,gpu}
    local i g
    {
        echo "ClusterName=local"
        echo "SlurmctldHost=$HOST(127.0.0.1)"
        echo "SlurmctldPort=$CTLD_PORT"
        echo "SlurmUser=root"
        echo "SlurmdUser=root"
        # cred_expire also sets how long a requeued job must wait before it may start again (default 120 s)
        echo "AuthType=auth/munge"
        echo "AuthInfo=socket=$DIR/munge/munge.sock,cred_expire=10"
        echo "CredType=cred/munge"
        # loopback only: without this the daemons listen on every interface. With it srun listens on the address
        # of its own hostname, so every node name must resolve to 127.0.0.1 (127.0.0.11 and the like hang srun)
        echo "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"
        echo "StateSaveLocation=$DIR/state"
        echo "SlurmdSpoolDir=$DIR/spool/%n"
        echo "SlurmctldPidFile=$DIR/slurmctld.pid"
        echo "SlurmdPidFile=$DIR/slurmd-%n.pid"
        echo "SlurmctldLogFile=$DIR/log/slurmctld.log"
        echo "SlurmdLogFile=$DIR/log/slurmd-%n.log"
        # no cgroups, so that it works inside a container or a small VM
        echo "ProctrackType=proctrack/linuxproc"
        echo "TaskPlugin=task/none"
        echo "JobAcctGatherType=jobacct_gather/none"
        echo "TmpFS=$DIR/tmp/%n"                      # PMIx makes /tmp/spmix_appdir_*: one per virtual node
        echo "SwitchType=switch/none"
        echo "MpiDefault=none"
        echo "MailProg=/bin/true"
        echo "SelectType=select/cons_tres"
        echo "SelectTypeParameters=CR_Core_Memory"
        echo "DefMemPerCPU=500"
        echo "SlurmdParameters=config_overrides"       # claim more CPUs and memory than there are
        echo "SchedulerType=sched/backfill"
        echo "SchedulerParameters=bf_interval=2,sched_min_interval=100000,batch_sched_delay=0"
        echo "ReturnToService=2"
        echo "KillWait=15"
        echo "MinJobAge=3600"
        echo "JobRequeue=1"
        echo "JobCompType=jobcomp/filetxt"
        echo "JobCompLoc=$DIR/log/jobcomp.txt"
        [ "$GPUS" -gt 0 ] && echo "GresTypes=gpu"
        for ((i = 1; i <= NODES; i++)); do
            echo "NodeName=$PREFIX$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=${SLURMD_PORTS[i - 1]}" \
                 "CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM" \
                 "$([ "$GPUS" -gt 0 ] && echo "Gres=gpu:$GPUS") State=UNKNOWN"
        done
        for part in ${PARTITIONS:-debug gpu}; do
            echo "PartitionName=$part Nodes=ALL MaxTime=24:00:00 DefaultTime=10 State=UP OverSubscribe=NO" \
                 "$([ "$part" = debug ] && echo Default=YES)"
        done
    } > "$DIR/etc/slurm.conf"
    : > "$DIR/etc/gres.conf"
    if [ "$GPUS" -gt 0 ]; then
        for ((g = 0; g < GPUS; g++)); do [ -c "$DIR/gpu/nvidia$g" ] || mknod "$DIR/gpu/nvidia$g" c 1 3; done   # copies of /dev/null
        for ((i = 1; i <= NODES; i++)); do
            echo "NodeName=$PREFIX$i Name=gpu File=$DIR/gpu/nvidia[0-$((GPUS - 1))]" >> "$DIR/etc/gres.conf"
        done
    fi
    printf 'CgroupAutomount=no\n' > "$DIR/etc/cgroup.conf"
}

# hosts_set [LINE...]: in /etc/hosts, these lines for this cluster's, and none of clusters that were killed
hosts_set() {
    local line kept=()
    {
        flock 9
        while IFS= read -r line || [ -n "$line" ]; do
            if [[ $line == *"$MARK" ]]; then continue; fi
            if [[ $line == *"# drb-slurm "* ]] && ! is_alive "${line##*# drb-slurm }"; then continue; fi
            kept+=("$line")
        done < /etc/hosts
        printf '%s\n' "${kept[@]}" "$@" > /etc/hosts    # not a new file: containers mount this one
    } 9>> /etc/hosts
}
is_alive() {    # folder of a cluster: it runs, or is being started
    local f p
    for f in "$1/starting.pid" "$1/slurmctld.pid"; do
        p=$(cat "$f" 2>/dev/null) && kill -0 "$p" 2>/dev/null && return 0
    done
    return 1
}

cmd_install() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && command -v sbatch >/dev/null && return 0
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge libpmix2
    # for srun --mpi=pmix: Debian's plugin opens the unversioned libpmix.so, which only libpmix-dev ships
    local l; l=/usr/lib/$(uname -m)-linux-gnu/pmix2/lib
    [ -e "$l/libpmix.so" ] || ln -s libpmix.so.2 "$l/libpmix.so" || true
}

cmd_up() {
    [ "$(id -u)" = 0 ] || die "needs root"
    [ -e "$DIR/slurmctld.pid" ] && die "already up in $DIR"
    [ "$CPUS" -ge "$(nproc)" ] || die "CPUS must be at least $(nproc): slurmd refuses a node with fewer CPUs than the machine"
    rm -f "$DIR"/log/*; write_conf; echo $$ > "$DIR/starting.pid"
    local i hosts=()
    for ((i = 1; i <= NODES; i++)); do hosts+=("127.0.0.1 $PREFIX$i $MARK"); done
    hosts_set "${hosts[@]}"
    export SLURM_CONF="$DIR/etc/slurm.conf"
    # munge: own key and socket, as root (--force silences the owner checks of the default paths)
    head -c 1024 /dev/urandom > "$DIR/munge/munge.key"; chmod 400 "$DIR/munge/munge.key"; chmod 711 "$DIR" "$DIR/munge"
    munged --force --key-file="$DIR/munge/munge.key" --socket="$DIR/munge/munge.sock" \
           --pid-file="$DIR/munge/munged.pid" --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/seed"
    slurmctld -c
    for ((i = 1; i <= NODES; i++)); do
        mkdir -p "$DIR/spool/$PREFIX$i" "$DIR/tmp/$PREFIX$i"
        # an own UTS namespace gives each virtual node its own hostname, as on a real cluster
        unshare --uts sh -c "hostname $PREFIX$i; exec slurmd -N $PREFIX$i"
    done
    for ((i = 0; i < 150; i++)); do
        if [ "$(sinfo -h -p debug -N -t idle -o %N 2>/dev/null | wc -l)" -eq "$NODES" ]; then
            [ -z "${OWNER:-}" ] || guard
            sinfo -N -o '%N %t %c %m %G'
            return 0
        fi
        sleep 0.2
    done
    sinfo -N -l || true; tail -n 20 "$DIR"/log/*.log >&2; die "the nodes did not become idle"
}

guard() { (exec >/dev/null 2>&1 </dev/null; tail --pid="$OWNER" -f /dev/null; cmd_down) & }

cmd_env() { echo "export SLURM_CONF=$DIR/etc/slurm.conf"; }

end_pid() {   # pid file -> TERM, then KILL after 5 s
    [ -e "$1" ] || return 0
    local p i; p=$(cat "$1" 2>/dev/null) || return 0
    kill "$p" 2>/dev/null || true
    for ((i = 0; i < 50; i++)); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$p" 2>/dev/null || true; rm -f "$1"
}
cmd_down() {
    export SLURM_CONF="$DIR/etc/slurm.conf"
    local f
    if [ -e "$DIR/slurmctld.pid" ]; then
        timeout 10 scancel -u root 2>/dev/null || true
        for ((f = 0; f < 40; f++)); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.25; done
    fi
    for f in "$DIR"/slurmd-*.pid "$DIR/slurmctld.pid" "$DIR/munge/munged.pid"; do   # TERM all first: they end side by side
        [ -e "$f" ] && { kill "$(cat "$f")" 2>/dev/null || true; }
    done
    for f in "$DIR"/slurmd-*.pid "$DIR/slurmctld.pid" "$DIR/munge/munged.pid"; do end_pid "$f"; done
    hosts_set; rm -rf "$DIR/state" "$DIR/spool" "$DIR/gpu" "$DIR/starting.pid"
}

cmd_run() {
    trap cmd_down EXIT
    cmd_up >&2; export SLURM_CONF="$DIR/etc/slurm.conf"
    "$@"
}

case "${1:-}" in
    install|up|env|run|down) c=$1; shift; "cmd_$c" "$@" ;;
    *) sed -n '2,10p' "$0"; exit 2 ;;
esac
