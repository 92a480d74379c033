"""What every other room uses: errors, files, tables, logs, devices, processes, precision."""
