"""The verbs of the command line as functions: `foundray` has them all by name.

Each imports what it needs inside, so that `import foundray` is quick. They take paths and plain values, and call the packages.
"""
