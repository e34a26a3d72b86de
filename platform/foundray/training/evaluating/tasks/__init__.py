"""Tasks judged by likelihood: JSON Lines in, how likely the model finds each text, and measures with standard errors out.

`items` reads a file, `requests` turns its texts into token ids, `scoring` asks a model (or a floor) how likely they are, and
`measures` makes accuracies and bits per byte of that.
"""
