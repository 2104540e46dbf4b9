#!/usr/bin/env bash
# A scaling study: the same run on 1, 2, 4, ... nodes, one job after the other, and a job that reports on all of them.
#
#     slurm/scaling.sh 8 experiment=imagenet                                    1, 2, 4 and 8 nodes
#     SBATCH_OPTIONS="--partition=gpu --time=02:00:00" slurm/scaling.sh 8 experiment=imagenet
#
# One job at a time (afterok), so that the runs do not disturb one another; a run that fails ends the study.
# SBATCH_OPTIONS are given to all jobs, FILE is what they run (slurm/train.sbatch). The table and the plots are in
# runs/scaling-TIME/.
set -euo pipefail
MOST=${1:?"usage: slurm/scaling.sh MOST_NODES [key=value ...]"}
shift
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Slurm opens the report's output file itself, in a folder that must be there.
FILE=${FILE:-$HERE/train.sbatch}
export DRB_RUNS=${DRB_RUNS:-runs/scaling-$(date +%Y%m%d-%H%M%S)}

previous=
for ((nodes = 1; nodes <= MOST; nodes *= 2)); do
    # shellcheck disable=SC2086  # options are several words
    previous=$(sbatch --parsable ${SBATCH_OPTIONS:-} --nodes="$nodes" --job-name="drb-$nodes-nodes" \
        ${previous:+--dependency=afterok:$previous} --kill-on-invalid-dep=yes "$FILE" name="$nodes nodes" "$@")
    echo "$nodes nodes: job $previous"
done
# shellcheck disable=SC2086
report=$(sbatch --parsable ${SBATCH_OPTIONS:-} --nodes=1 --ntasks=1 --gpus-per-node=0 --time=10 --job-name=drb-report \
    --dependency="afterok:$previous" --kill-on-invalid-dep=yes --output="$DRB_RUNS/report.txt" \
    --wrap "${DRB_PYTHON:-python3} -m drb.cli report --plots '$DRB_RUNS' '$DRB_RUNS'/slurm-*")
mkdir -p "$DRB_RUNS"
echo "report: job $report, in $DRB_RUNS/report.txt"
