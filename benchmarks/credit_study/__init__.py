"""The credit study: which credit learns most from the same rollouts, measured with many seeds.

    python -m benchmarks.credit_study run --worlds explore --prompts 4 --arms grpo value_gold
    python -m benchmarks.credit_study table

Every run is the real trainer in a process of its own. All arms of a seed begin at one warm start.
An update of any arm moves the policy by the same KL divergence at most (`update.max_kl`), so no arm
wins or loses by its step size. That bound is chosen per arm from the same three values, on seeds
that are not reported. The last figures are of a test split that no choice has looked at.

A run that was stopped goes on where it was; one line of results is kept for each that is done.
"""
