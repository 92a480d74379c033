"""The paper's protocol: the divisions, the commands of each run, and the table of the results."""
