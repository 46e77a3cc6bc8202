"""The explore world: databases in which a question takes several looks."""
