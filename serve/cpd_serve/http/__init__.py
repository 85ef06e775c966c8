"""``cpd-serve http``: clips that are posted to a port, each labelled in a process that may crash or hang."""
