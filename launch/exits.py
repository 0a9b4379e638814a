"""Exit codes: what they mean to whoever starts the training again.

0 done; 1 a check did not hold, 2 bad configuration, 3 data or checkpoint
unusable, 4 diverged: the same again would end the same, so nobody restarts
them. 42: stopped with the state saved. 127 to 255: killed or crashed (134:
aborted since a peer died, 137: SIGKILL, 142: SIGALRM, 143: SIGTERM). These are
restarted, and counted.
"""

from collections.abc import Sequence

PREEMPTED = 42
KILLED = 137
GAVE_UP = 1
RESTARTED = (PREEMPTED, *range(127, 256))
# What says most comes first.
_FINAL = (2, 3, 4, 1)


def restarts(code: int) -> bool:
  """Whether the same command may do better a second time."""
  return code in RESTARTED


def verdict(codes: Sequence[int]) -> int:
  """One exit code for a job of several processes.

  0 if all left with 0. A code that is never restarted wins, as the others
  died of it: 2, 3, 4, 1, then the smallest. 42 if all left with 42 or 0.
  Otherwise the largest.

  Args:
    codes: one of each process, at least one.
  """
  final = [code for code in codes if code and not restarts(code)]
  if final:
    return min(final, key=lambda c: (_FINAL.index(c) if c in _FINAL else 4, c))
  if set(codes) <= {0, PREEMPTED}:
    return max(codes)
  return max(code for code in codes if code != PREEMPTED)


def of_process(returncode: int) -> int:
  """As a shell says it: what a signal ended has 128 and its number."""
  return 128 - returncode if returncode < 0 else returncode
