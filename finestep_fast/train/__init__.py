"""The thin trainer, `python -m finestep_fast.train`; imported by nobody else."""
