"""From demonstrations and credited rollouts to new weights."""
