"""A Slurm of one node on this machine, started and stopped by the suite; needs root, slurm-wlm and munge."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
NODE_CPUS = 8  # more than there are: four tasks must run at a time on two cores

CONFIG = """\
ClusterName=suite
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000
KillWait=20
OverTimeLimit=0
MinJobAge=600
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=suite Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Its commands take the configuration from the environment that `environment` gives."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Raises AssertionError with the reason when a part of Slurm is not there or does not come up."""
        missing = [name for name in NEEDED if shutil.which(name, path=self.environment()["PATH"]) is None]
        assert not missing, f"not installed: {', '.join(missing)}; apt-get install slurm-wlm munge"
        assert os.geteuid() == 0, "Slurm's daemons need root"
        for name in ("state", "spool"):
            (self.root / name).mkdir(parents=True)
        host = socket.gethostname().partition(".")[0]
        text = CONFIG.format(host=host, root=self.root, cpus=NODE_CPUS, port=free_port(), node_port=free_port())
        self.configuration.write_text(text)
        self._start_munge()
        self._spawn("slurmctld", "-D", "-f", str(self.configuration))
        self._spawn("slurmd", "-D", "-f", str(self.configuration))
        self.wait(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%t", check=False), 60, "an idle node")

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.root.chmod(0o755)
        self._spawn(
            "munged",
            "--foreground",
            f"--key-file={key}",
            f"--socket={self.root}/munge.sock",
            f"--pid-file={self.root}/munged.pid",
            f"--log-file={self.root}/munged.log",
            f"--seed-file={self.root}/munged.seed",
            "--force",
        )
        self.wait((self.root / "munge.sock").exists, 30, "munge's socket")

    def stop(self) -> None:
        """Ends every job, to its last process, and the daemons."""
        try:
            if self._daemons:
                self.call("scancel", "--state=RUNNING,PENDING", "--user=root", check=False)
                self.wait(lambda: not self.call("squeue", "--noheader", check=False).strip(), 60, "the jobs' ends")
        finally:
            self._stop_daemons()

    def _stop_daemons(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/bin"])
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self.configuration)}

    def call(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def states(self, job_id: str) -> dict[int, str]:
        """The state of each task of an array."""
        found = {}
        options = ("--all", "--states=all", "--array", "--noheader", "--format=%K %T")
        for line in self.call("squeue", *options, f"--jobs={job_id}").splitlines():
            task, state = line.split()
            if task.isdigit():
                found[int(task)] = state
        return found

    def restarts(self, job_id: str, task: int) -> int:
        text = self.call("scontrol", "show", "job", f"{job_id}_{task}")
        return int(text.partition("Restarts=")[2].split()[0])

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}\n{self.logs()}"
            time.sleep(0.3)

    def logs(self) -> str:
        return "\n".join(
            f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in self.root.glob("*.log")
        )

    def _spawn(self, *command: str) -> None:
        output = (self.root / f"{command[0]}.out").open("wb")
        self._daemons.append(
            subprocess.Popen(command, env=self.environment(), stdout=output, stderr=output, start_new_session=True)
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
