"""The report page of an evaluation and the comparison page of several."""
