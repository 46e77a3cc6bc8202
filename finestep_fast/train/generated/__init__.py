"""What every generated world is made with: a model from nothing, scripted calls, files.

The worlds themselves, `quickstart` and `explore`, stand beside this package.
"""
