"""The settings of a run, from the command line, configs/NAME.yaml and a checkpoint, and its data loaders."""
