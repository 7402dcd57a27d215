"""What to ask and how to read the answer. No torch, no I/O but the user's own job file.

A job is a module (or a user's file) that has ``prompt(row)``, and where wanted ``parse(row, completion)`` with
``columns``; or a class ``Job`` with the same members. `runner.types.Job` says what they take and return.
"""

from jobs.loader import REGISTERED, LoadedJob, load_job

__all__ = ["REGISTERED", "LoadedJob", "load_job"]
