"""One module per format: an open file becomes documents, with a BadRow in place of each part that cannot be used.

A format is a module with a `read`, and a line in `archive.READERS` and in `files.ENDINGS`.
"""
