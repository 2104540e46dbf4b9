#!/usr/bin/env bash
# A scaling study: the same run on 1, 2, 4, ... and MOST nodes, one job after the other, and a job that reports on them.
#
#     slurm/scaling.sh 8 experiment=paper_imagenet_resnet50                                    1, 2, 4 and 8 nodes
#     slurm/scaling.sh 6 experiment=paper_imagenet_resnet50                                    1, 2, 4 and 6 nodes
#     SBATCH_OPTIONS="--partition=gpu --time=02:00:00" slurm/scaling.sh 8 experiment=paper_imagenet_resnet50
#
# One job at a time, so that the runs do not disturb one another. If one fails the others run, and are reported on.
# SBATCH_OPTIONS are given to all jobs, FILE is what they run (slurm/train.sbatch). The table and the plots are in
# runs/scaling-TIME/.
set -euo pipefail
MOST=${1:?"usage: slurm/scaling.sh MOST_NODES [key=value ...]"}
shift
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Slurm opens the report's output file itself, in a folder that must be there.
FILE=${FILE:-$HERE/train.sbatch}
export DRB_RUNS=${DRB_RUNS:-runs/scaling-$(date +%Y%m%d-%H%M%S)-$(od -An -N2 -tx1 /dev/urandom | tr -d ' ')}

previous=
for ((nodes = 1; ; nodes = 2 * nodes < MOST ? 2 * nodes : MOST)); do
    name="$nodes node$( ((nodes == 1)) || echo s)"
    # shellcheck disable=SC2086  # options are several words
    previous=$(sbatch --parsable ${SBATCH_OPTIONS:-} --nodes="$nodes" --job-name="drb-$nodes-nodes" \
        ${previous:+--dependency=afterany:$previous} "$FILE" name="$name" "$@")
    echo "$name: job $previous"
    ((nodes < MOST)) || break
done
# shellcheck disable=SC2086
report=$(sbatch --parsable ${SBATCH_OPTIONS:-} --nodes=1 --ntasks=1 --gpus-per-node=0 --time=10 --job-name=drb-report \
    --dependency="afterany:$previous" --output="$DRB_RUNS/report.txt" \
    --wrap "${DRB_PYTHON:-python3} -m drb.cli report --plots '$DRB_RUNS' '$DRB_RUNS'/slurm-*")
mkdir -p "$DRB_RUNS"
echo "report: job $report, in $DRB_RUNS/report.txt"
