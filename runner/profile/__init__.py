"""`python -m runner.profile job=...`: where the time of a job's steps goes, with and without asynchronous batching."""
