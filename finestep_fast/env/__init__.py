"""The world of a Text-to-SQL agent: one question, one database, a few tools, many turns.

Not a sampler and not a trainer: text goes in, an observation comes out.
"""
