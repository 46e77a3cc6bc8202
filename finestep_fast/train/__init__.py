"""The thin trainer, `python -m finestep_fast.train`; no other part imports it."""
