"""The ops from hidden states or logits: log-probabilities and policy losses, never all logits.

`token_logp`, `linear_loss` and `logits_loss` are the entry points, `check` what they refuse. A
linear head makes logits a chunk of rows at a time (`linear_head`), an implementation reads rows and
writes their gradients (`rows`, `implementations`), `policy_tokens` is the loss as seen from there.
`operators` is what a compiler sees.
"""
