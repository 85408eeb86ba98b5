"""The most memory that a process has had, for code that tests run in a process of its own."""

PEAK = '''
import resource
from pathlib import Path


def peak():
    """Kilobytes. On Linux not `ru_maxrss`, in which a new program keeps what its parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
'''
