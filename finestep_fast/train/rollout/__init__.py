"""Rollouts: played in the environment, kept as token ids, scored and credited."""
