#!/usr/bin/env bash
# Two hosts of eight GPUs, one process for each host, which sees all of its GPUs:
#     sbatch experiments/launch/slurm.sh --config vit_base --run runs/vit_base
# The run directory and the data must be on a file system that all hosts see. TERM comes two minutes
# before the end of the time: the run saves, and goes on where the job is queued again.
#SBATCH --job-name=mlm_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

# One process for each GPU works as well: --ntasks-per-node=8 and no --gpus-per-task, which would
# hide the GPUs of a host from each other.
srun --kill-on-bad-exit=1 .venv/bin/python experiments/train.py \
  --require gpu --precision bfloat16 "$@" || code=$?

# 143: it was asked to stop and has saved
if [ "${code:-0}" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "${code:-0}"
