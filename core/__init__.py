"""The domain: events, ports, errors, the step machine. Standard library only."""
