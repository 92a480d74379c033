"""The paper's protocol: divisions, the commands of each run, and the table of their results."""
