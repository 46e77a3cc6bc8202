"""Predicted queries in, execution accuracy and its relatives out.

Not a model runner: predictions come from a file, whoever wrote them.
"""
