#!/usr/bin/env bash
# Pretraining on a SLURM cluster: sbatch scripts/slurm.sh [METHOD/CONFIG] [KEY=VALUE ...]
# ORL's stages as jobs of their own, in one folder: OUT=runs/orl/coco STAGE=1 sbatch scripts/slurm.sh orl/coco_800ep, then 2, 3.
# Two minutes before the time is up, or when the job is preempted, the run saves itself and ends with code 75; the job then queues
# itself again and goes on. Adjust nodes, GPUs and time to your cluster; the config needs no change.
#SBATCH --job-name=pretrain
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

config=${1:-r2o/imagenet_300ep}
method=${config%%/*}
shift || true
# One task a GPU: every process gets its rank and the signal from srun itself, and finds the others by SLURM's variables.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" .venv/bin/python "${method}_main.py" --cfg "$config" \
  --resume auto --out "${OUT:-runs/$method/$SLURM_JOB_ID}" ${STAGE:+--stage "$STAGE"} ${1:+--set "$@"}
code=$?
# 75 is "resume me", but the first process to leave makes srun kill the others, whose codes may win. Done (0), wrong use (2), bad
# data (3) and divergence (4) would only come again.
case "$code" in
  0 | 1 | 2 | 3 | 4) ;;
  *) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
