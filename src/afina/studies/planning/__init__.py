"""The memory, disk space and time that runs would take, before anything is trained (`afina plan`)."""
