"""launcher.py LOG COMMAND...: runs a command to its end and prints what it took, whatever process started the launcher.

Prints exit status, seconds, CPU seconds, peak resident bytes, and bytes that were read from and written to the disk. All
but the seconds count the command's own children too; the peak is that of the largest one. A child's peak begins with its
parent's size until exec, so run this with `python -I -S`: then only what is below some 10 MB is not seen. The bytes are
those of /proc/PID/io (read_bytes, write_bytes), which wait4 reports in blocks of 512. Output of the command goes to LOG.

A command that wants more memory than is free is refused it, before the machine stalls; should that come too late, it is
the first to be killed.
"""

import os
import resource
import sys
import time

SPARE_BYTES = 1 << 30  # for what runs beside the command

log, *command = sys.argv[1:]
with open("/proc/meminfo") as lines:
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
resource.setrlimit(resource.RLIMIT_DATA, (max(free - SPARE_BYTES, SPARE_BYTES), resource.RLIM_INFINITY))
with open("/proc/self/oom_score_adj", "w") as score:
    score.write("1000")
to_log = [(os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), (os.POSIX_SPAWN_DUP2, 1, 2)]
start = time.perf_counter()
pid = os.posix_spawnp(command[0], command, os.environ, file_actions=to_log)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
print(
    os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024,
    usage.ru_inblock * 512, usage.ru_oublock * 512,
)
