"""Makes data: one script a question, a frozen Config, `run(config)` -> run directory. Trains, never plots."""
