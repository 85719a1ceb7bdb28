"""Runs ``python -m study`` in two processes, with what ``srun --ntasks-per-node 2`` of Slurm tells each of them."""

import os
import subprocess
import sys

JOB = {
    "SLURM_JOB_ID": str(os.getpid()),
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
    "SLURM_JOB_NODELIST": "localhost",
}

if __name__ == "__main__":
    tasks = []
    for rank in ("0", "1"):
        environment = os.environ | JOB | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        tasks.append(subprocess.Popen([sys.executable, "-m", "study", *sys.argv[1:]], env=environment))
    sys.exit(max(task.wait() for task in tasks))
