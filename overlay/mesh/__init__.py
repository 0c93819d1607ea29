"""The routing mesh: published ports of every host, led to tasks on any host."""
