"""Options of ONNX Runtime's sessions: how many threads, and whose."""

from __future__ import annotations

from typing import Any

_QUIET = 4  # of its levels: errors are raised too
# Threads of the pool that sessions share; it can be made once in a process.
_POOL: list[int] = []


def options(threads: int, *, several: bool = False) -> Any:
    """Return the options of a session with `threads`, or of `several` that take turns.

    Those share one pool: threads of one's own spin after a call, beside the next session's.  Once
    there is a pool, ONNX Runtime refuses sessions with threads of their own, so that all that come
    later have those of the pool, whatever `threads` says.
    """
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = _QUIET
    if several and not _POOL:
        onnxruntime.set_global_thread_pool_sizes(threads, 1)
        _POOL.append(threads)
    if _POOL:
        chosen.use_per_session_threads = False
    else:
        chosen.intra_op_num_threads = threads
    return chosen
