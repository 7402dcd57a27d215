"""One file for each way to start tasks; its name is a value of launch.kind."""
