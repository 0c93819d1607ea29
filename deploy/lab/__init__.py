"""The lab: Docker hosts as network namespaces of one Linux machine, each with its own engine and daemon."""
