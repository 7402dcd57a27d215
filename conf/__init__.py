"""Values only, one group a folder: job, model, input, sampling, engine, output. The schema is runner/config.py."""
