"""Code that all other folders use: errors, files, tables, logs, devices, processes, precision."""
