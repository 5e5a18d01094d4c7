"""The development stack: the real services Tintype is tested against, without systemd."""
