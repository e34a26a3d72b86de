"""The loss on data that the run does not train on."""
