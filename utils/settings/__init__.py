"""From the command line, configs/NAME.yaml and a checkpoint to the settings of a run, and to its data loaders."""
