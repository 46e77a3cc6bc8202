"""What a run keeps in its folder: checkpoints, logs, settings, and their checksums."""
